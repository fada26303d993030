"""A checkpoint folder opens in transformers, with the logits of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from smalltale.model.hf.modeling_smalltale import KNOWN
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer

SHAPE = ModelConfig(vocabulary=90, layers=3, width=32, heads=2, context=64)
OPEN = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
told = torch.load(sys.argv[2])
ids, logits = told["ids"], told["logits"]
with torch.no_grad():
    print("logits", (model(ids).logits - logits).abs().max().item())
    padded = torch.cat((torch.ones(2, 5, dtype=torch.long), ids), 1)
    mask = torch.cat((torch.zeros(2, 5, dtype=torch.long), torch.ones_like(ids)), 1)
    print("padded", (model(padded, attention_mask=mask).logits[:, 5:] - logits).abs().max().item())
    cached, plain = (
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, use_cache=each)
        for each in (True, False)
    )
    print("generate", float(not torch.equal(cached, plain)), float(cached.shape[1] != ids.shape[1] + 12))
"""
PYTHONS = "SMALLTALE_TRANSFORMERS_PYTHONS"


def learned(shape: ModelConfig) -> Transformer:
    """A model none of whose weights is zero."""
    torch.manual_seed(1)
    model = Transformer(shape)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.2 * torch.randn_like(each))
    return model.eval()


def check(python: str, folder: Path) -> None:
    """Compare what an interpreter's transformers makes of the folder with our own model."""
    model = learned(SHAPE)
    write_model(folder, SHAPE, model.state_dict(), {"eos_token_id": None, "pad_token_id": 1})
    ids = torch.randint(90, (2, 20))
    with torch.no_grad():
        torch.save({"ids": ids, "logits": model(ids)}, folder.parent / "told.pt")
    made = subprocess.run(
        [python, "-W", "ignore", "-c", OPEN, str(folder), str(folder.parent / "told.pt")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "home")},
    )
    assert made.returncode == 0, made.stderr[-2000:]
    for line in made.stdout.splitlines():
        assert all(float(each) < 1e-4 for each in line.split()[1:]), made.stdout
    assert made.stdout.count("\n") == 3


def test_a_checkpoint_opens_in_transformers_here(tmp_path: Path) -> None:
    check(sys.executable, tmp_path / "checkpoint")


@pytest.mark.all
def test_a_checkpoint_opens_in_other_versions_of_transformers(tmp_path: Path) -> None:
    pythons = [each for each in os.environ.get(PYTHONS, "").split(os.pathsep) if each]
    if not pythons:
        pytest.skip(f"{PYTHONS} names no interpreter; give those of environments with transformers 4")
    for number, python in enumerate(pythons):
        check(python, tmp_path / str(number) / "checkpoint")


def test_the_code_that_travels_knows_every_field_of_the_shape() -> None:
    assert {each.name for each in fields(ModelConfig)} == KNOWN
