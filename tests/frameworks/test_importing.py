"""An imported model has the same logits and parameter count as in its own trainer."""

from __future__ import annotations

import json
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalltale.counting.count import count_parameters
from smalltale.errors import FileProblem
from smalltale.frameworks.framework import FRAMEWORK_NAMES
from smalltale.frameworks.llama import HEAD
from smalltale.model.foreign import open_foreign_model
from smalltale.tokens.tokenizer import Tokenizer

from .checkpoints import gpt, import_trusted, nanogpt_file, save_reference, train_export
from .conftest import Prepared

IMPORTABLE = [name for name in FRAMEWORK_NAMES if name != "llama2c"]


@pytest.mark.parametrize("name", IMPORTABLE)
def test_a_checkpoint_is_imported_with_its_logits_and_its_count(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, model = train_export(name, prepared, tmp_path / "export")
    imported = import_trusted(name, checkpoint, tmp_path / "imported")
    parameter_count = sum(weight.numel() for weight in model.parameters())
    assert imported.reference is not None
    assert imported.reference.difference <= 1e-5
    assert imported.counted == imported.reference.parameters == parameter_count
    assert imported.weight_class == "small"
    reopened = open_foreign_model(tmp_path / "imported")
    ids = torch.arange(20).view(1, 20) + 3
    with torch.no_grad():
        output = model(ids)
    expected = output if isinstance(output, Tensor) else output.logits
    assert torch.allclose(reopened(ids), expected, atol=1e-5)
    assert (
        json.loads((tmp_path / "imported" / "config.json").read_text())["counted_parameters"]
        == parameter_count
    )
    meta = json.loads((tmp_path / "imported" / "meta.json").read_text())
    assert meta["framework"] == name
    assert str(tmp_path) not in json.dumps(meta)


@pytest.mark.parametrize(("bias", "extra"), [(False, 0), (True, 1)])
def test_an_imported_nanogpt_has_biases_only_if_the_checkpoint_has(
    bias: bool, extra: int, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = train_export("nanogpt", prepared, tmp_path / "export")
    model = gpt(prepared, bias=bias)
    nanogpt_file(model, checkpoint)
    save_reference(model, checkpoint.parent)
    imported = import_trusted("nanogpt", checkpoint, tmp_path / "imported")
    names = [
        name for name in load_file(tmp_path / "imported" / "model.safetensors") if name.endswith(".bias")
    ]
    width, layers = prepared.plan.width, prepared.plan.layers
    biases_per_layer = 2 * width + 3 * width + width + 4 * width + width
    assert imported.counted == count_parameters(gpt(prepared)).counted + extra * (
        layers * biases_per_layer + width
    )
    assert len(names) == extra * (6 * layers + 1)


def test_tied_copies_become_one_weight_again(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, model = train_export("trainer", prepared, tmp_path / "export")
    both = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_file(both, checkpoint / "model.safetensors")
    imported = import_trusted("trainer", checkpoint, tmp_path / "imported")
    assert HEAD not in load_file(tmp_path / "imported" / "model.safetensors")
    assert imported.counted == sum(weight.numel() for weight in model.parameters())
    both[HEAD][0, 0] += 1
    save_file(both, checkpoint / "model.safetensors")
    with pytest.raises(FileProblem, match="tie_word_embeddings to false"):
        import_trusted("trainer", checkpoint, tmp_path / "other")


def test_a_checkpoint_without_reference_is_imported_and_reports_it(
    prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = train_export("accelerate", prepared, tmp_path / "export")
    (checkpoint / "reference.safetensors").unlink()
    assert import_trusted("accelerate", checkpoint, tmp_path / "imported").reference is None


def test_an_end_token_precedes_an_imported_prompt(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("accelerate", prepared, tmp_path / "export")
    import_trusted("accelerate", checkpoint, tmp_path / "imported")
    tokenizer = Tokenizer.load(tmp_path / "imported")
    assert tokenizer.engine.encode("Once").ids[0] == tokenizer.end_id


@pytest.mark.parametrize("bias", [False, True])
def test_the_model_of_a_nanogpt_checkout_is_imported(bias: bool, prepared: Prepared, tmp_path: Path) -> None:
    if "NANOGPT" not in os.environ:
        pytest.skip(
            "NANOGPT is not set: git clone https://github.com/karpathy/nanoGPT FOLDER, NANOGPT=FOLDER"
        )
    spec = spec_from_file_location("nanogpt_model", Path(os.environ["NANOGPT"]) / "model.py")
    assert spec is not None
    assert spec.loader is not None
    theirs = module_from_spec(spec)
    spec.loader.exec_module(theirs)
    shape = {**vars(gpt(prepared).config), "bias": bias, "dropout": 0.0}
    model = theirs.GPT(theirs.GPTConfig(**shape)).eval()
    checkpoint, _ = train_export("nanogpt", prepared, tmp_path / "export")
    torch.save({"model": model.state_dict(), "model_args": shape}, checkpoint)
    ids = torch.arange(48).view(2, 24)
    with torch.no_grad():
        logits, _ = model(ids, ids)  # with targets it returns the logits of every position
    save_file({"ids": ids, "logits": logits.contiguous()}, checkpoint.with_name("reference.safetensors"))
    imported = import_trusted("nanogpt", checkpoint, tmp_path / "imported")
    assert imported.reference is not None
    assert imported.reference.difference <= 1e-5
    assert imported.counted == model.get_num_params(non_embedding=False)
