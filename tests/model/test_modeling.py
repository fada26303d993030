"""A checkpoint folder opens in transformers with the logits of the native model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from smalltale.model.hf.modeling_smalltale import MODEL_KEYS
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer

SHAPE = ModelConfig(vocabulary=90, layers=3, width=32, heads=2, context=64)
SCRIPT = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
expected = torch.load(sys.argv[2])
ids, logits = expected["ids"], expected["logits"]
with torch.no_grad():
    print("logits", (model(ids).logits - logits).abs().max().item())
    padded = torch.cat((torch.ones(2, 5, dtype=torch.long), ids), 1)
    mask = torch.cat((torch.zeros(2, 5, dtype=torch.long), torch.ones_like(ids)), 1)
    print("padded", (model(padded, attention_mask=mask).logits[:, 5:] - logits).abs().max().item())
    cached, plain = (
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    )
    print("generate", float(not torch.equal(cached, plain)), float(cached.shape[1] != ids.shape[1] + 12))
"""
PYTHONS = "SMALLTALE_TRANSFORMERS_PYTHONS"


def random_model(shape: ModelConfig) -> Transformer:
    """A model without zero weights."""
    torch.manual_seed(1)
    model = Transformer(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def compare_with_transformers(python: str, folder: Path) -> None:
    """Compare a Transformer's logits with those of the checkpoint opened in an interpreter's transformers."""
    model = random_model(SHAPE)
    write_model(folder, SHAPE, model.state_dict(), {"eos_token_id": None, "pad_token_id": 1})
    ids = torch.randint(90, (2, 20))
    with torch.no_grad():
        torch.save({"ids": ids, "logits": model(ids)}, folder.parent / "expected.pt")
    process = subprocess.run(
        [python, "-W", "ignore", "-c", SCRIPT, str(folder), str(folder.parent / "expected.pt")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "home")},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    for line in process.stdout.splitlines():
        assert all(float(number) < 1e-4 for number in line.split()[1:]), process.stdout
    assert process.stdout.count("\n") == 3


def test_a_checkpoint_opens_in_the_installed_transformers(tmp_path: Path) -> None:
    compare_with_transformers(sys.executable, tmp_path / "checkpoint")


@pytest.mark.all
def test_a_checkpoint_opens_in_other_versions_of_transformers(tmp_path: Path) -> None:
    pythons = [python for python in os.environ.get(PYTHONS, "").split(os.pathsep) if python]
    if not pythons:
        pytest.skip(f"{PYTHONS} names no interpreter; give those of environments with transformers 4")
    for number, python in enumerate(pythons):
        compare_with_transformers(python, tmp_path / str(number) / "checkpoint")


def test_the_modeling_file_knows_every_field_of_the_config() -> None:
    assert {field.name for field in fields(ModelConfig)} == MODEL_KEYS
