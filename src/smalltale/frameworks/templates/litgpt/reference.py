"""Save the logits of LitGPT's own model, which `smalltale import` compares. Run in this folder."""

from pathlib import Path

import numpy as np
import torch
from litgpt import GPT, Config
from safetensors.torch import save_file

checkpoint = Path(__file__).parent / "out" / "final"
model = GPT(Config.from_file(checkpoint / "model_config.yaml"))
model.load_state_dict(
    torch.load(checkpoint / "lit_model.pth", map_location="cpu", weights_only=True)["model"]
)
if torch.equal(model.lm_head.weight, model.transformer.wte.weight):
    model.lm_head.weight = model.transformer.wte.weight  # tied, as in training
model.eval()
ids = torch.from_numpy(np.fromfile(Path(__file__).parent / "reference_ids.bin", dtype=np.int64)).view(2, -1)
with torch.no_grad():
    logits = model(ids).float().contiguous()
metadata = {"parameters": str(sum(weight.numel() for weight in model.parameters()))}
save_file({"ids": ids, "logits": logits}, checkpoint / "reference.safetensors", metadata)
