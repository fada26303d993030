"""Story rows, the model, and the files that a run writes: shared by the scripts of several trainers.

Input: this folder's train.bin, val.bin, meta.json and config.json. Output: rows for a DataLoader; model.safetensors,
reference.safetensors and run.json in the model's folder.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
META = json.loads((HERE / "meta.json").read_text(encoding="utf-8"))
PLAN = META["plan"]
CONTEXT = PLAN["context"]


class StoryRows(Dataset):
    """Consecutive rows of CONTEXT tokens, memory-mapped; each story ends with its end token."""

    def __init__(self, split: str) -> None:
        self.tokens = np.memmap(HERE / f"{split}.bin", dtype=META["dtype"], mode="r")

    def __len__(self) -> int:
        return len(self.tokens) // CONTEXT

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.tokens[row * CONTEXT : (row + 1) * CONTEXT].astype(np.int64))
        # Hugging Face models shift the labels themselves.
        return {"input_ids": ids, "labels": ids}


def new_model() -> LlamaForCausalLM:
    """The Llama of config.json, randomly initialised, not pre-trained."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig.from_json_file(HERE / "config.json"))


class RunLog:
    """Losses and speed of a run: call `step` after every optimizer step and `close` at the end."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.times = [time.perf_counter()]

    def step(self, loss: float) -> None:
        self.losses.append(float(loss))
        self.times.append(time.perf_counter())

    def close(self, folder: Path, tokens_per_step: int) -> None:
        """Write run.json; the speed is the median over windows of 10 steps without the first."""
        windows = [
            self.times[start + 10] - self.times[start] for start in range(10, len(self.times) - 10, 10)
        ]
        rate = 10 * tokens_per_step / sorted(windows)[len(windows) // 2] if windows else None
        record = {"losses": self.losses, "tokens_per_second": rate}
        (Path(folder) / "run.json").write_text(json.dumps(record), encoding="utf-8")


def save_model(model: torch.nn.Module, folder: Path) -> None:
    """Save the model as safetensors, and its logits on a few tokens, which `smalltale import` compares."""
    model = model.to("cpu", torch.float32).eval()
    model.save_pretrained(folder)
    save_reference(model, lambda ids: model(input_ids=ids).logits, folder)


def save_reference(model: torch.nn.Module, logits_of, folder: Path) -> None:
    """Write reference.safetensors: ids (2, T), the logits (2, T, V) of the trained model, and its number of weights."""
    length = min(64, CONTEXT)
    held_out = np.memmap(HERE / "val.bin", dtype=META["dtype"], mode="r")[: 2 * length]
    ids = torch.from_numpy(held_out.astype(np.int64)).view(-1, length)
    with torch.no_grad():
        logits = logits_of(ids).float().contiguous()
    metadata = {"parameters": str(sum(weight.numel() for weight in model.parameters()))}
    save_file({"ids": ids, "logits": logits}, Path(folder) / "reference.safetensors", metadata)
