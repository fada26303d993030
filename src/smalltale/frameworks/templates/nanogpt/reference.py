"""Save the logits of nanoGPT's own model, which `smalltale import` compares. Run from nanoGPT's folder."""

import os
import sys

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, os.getcwd())  # noqa: PTH109
from model import GPT, GPTConfig  # nanoGPT's own

here = "data/smalltale"
checkpoint = torch.load(f"{here}/out/ckpt.pt", map_location="cpu", weights_only=True)
model = GPT(GPTConfig(**checkpoint["model_args"]))
model.load_state_dict({key.removeprefix("_orig_mod."): weight for key, weight in checkpoint["model"].items()})
model.eval()
length = min(64, model.config.block_size)
ids = torch.from_numpy(np.fromfile(f"{here}/val.bin", dtype=np.uint16, count=2 * length).astype(np.int64))
ids = ids.view(-1, length)
with torch.no_grad():
    logits, _ = model(ids, ids)  # with targets it returns the logits of every position
metadata = {"parameters": str(sum(weight.numel() for weight in model.parameters()))}
save_file({"ids": ids, "logits": logits.float()}, f"{here}/out/reference.safetensors", metadata)
