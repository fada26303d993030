"""What comes back is the same model, counted as its own trainer counts it."""

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
from smalltale.frameworks.framework import MODULES
from smalltale.frameworks.llama import HEAD
from smalltale.model.foreign import open_foreign_model
from smalltale.tokens.tokenizer import Tokenizer

from .checkpoints import bring, gpt, keep_reference, nanogpt_file, trained
from .conftest import Prepared

BACK = [name for name in MODULES if name != "llama2c"]


@pytest.mark.parametrize("name", BACK)
def test_a_checkpoint_comes_back_with_its_logits_and_its_count(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, model = trained(name, prepared, tmp_path / "export")
    found = bring(name, checkpoint, tmp_path / "back")
    own = sum(each.numel() for each in model.parameters())
    assert found.reference is not None
    assert found.reference.difference <= 1e-5
    assert found.counted == found.reference.parameters == own
    assert found.weight_class == "small"
    again = open_foreign_model(tmp_path / "back")
    ids = torch.arange(20).view(1, 20) + 3
    with torch.no_grad():
        theirs = model(ids)
    wanted = theirs if isinstance(theirs, Tensor) else theirs.logits
    assert torch.allclose(again(ids), wanted, atol=1e-5)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["counted_parameters"] == own
    meta = json.loads((tmp_path / "back" / "meta.json").read_text())
    assert meta["framework"] == name
    assert str(tmp_path) not in json.dumps(meta)


@pytest.mark.parametrize(("bias", "further"), [(False, 0), (True, 1)])
def test_nanogpt_gets_no_biases_that_it_had_not(
    bias: bool, further: int, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = trained("nanogpt", prepared, tmp_path / "export")
    model = gpt(prepared, bias=bias)
    nanogpt_file(model, checkpoint)
    keep_reference(model, checkpoint.parent)
    found = bring("nanogpt", checkpoint, tmp_path / "back")
    names = [name for name in load_file(tmp_path / "back" / "model.safetensors") if name.endswith(".bias")]
    width, layers = prepared.plan.width, prepared.plan.layers
    in_a_layer = 2 * width + 3 * width + width + 4 * width + width
    assert found.counted == count_parameters(gpt(prepared)).counted + further * (layers * in_a_layer + width)
    assert len(names) == further * (6 * layers + 1)


def test_tied_copies_become_one_weight_again(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, model = trained("trainer", prepared, tmp_path / "export")
    both = {name: each.clone() for name, each in model.state_dict().items()}
    save_file(both, checkpoint / "model.safetensors")
    found = bring("trainer", checkpoint, tmp_path / "back")
    assert HEAD not in load_file(tmp_path / "back" / "model.safetensors")
    assert found.counted == sum(each.numel() for each in model.parameters())
    both[HEAD][0, 0] += 1
    save_file(both, checkpoint / "model.safetensors")
    with pytest.raises(FileProblem, match="tie_word_embeddings to false"):
        bring("trainer", checkpoint, tmp_path / "other")


def test_a_checkpoint_without_reference_comes_back_and_says_so(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("accelerate", prepared, tmp_path / "export")
    (checkpoint / "reference.safetensors").unlink()
    assert bring("accelerate", checkpoint, tmp_path / "back").reference is None


def test_an_imported_prompt_stands_behind_an_end_token(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("accelerate", prepared, tmp_path / "export")
    bring("accelerate", checkpoint, tmp_path / "back")
    tokenizer = Tokenizer.load(tmp_path / "back")
    assert tokenizer.engine.encode("Once").ids[0] == tokenizer.end_id


@pytest.mark.parametrize("bias", [False, True])
def test_the_model_of_a_nanogpt_checkout_comes_back(bias: bool, prepared: Prepared, tmp_path: Path) -> None:
    if "NANOGPT" not in os.environ:
        pytest.skip(
            "NANOGPT names no checkout: git clone https://github.com/karpathy/nanoGPT FOLDER, NANOGPT=FOLDER"
        )
    spec = spec_from_file_location("nanogpt_model", Path(os.environ["NANOGPT"]) / "model.py")
    assert spec is not None
    assert spec.loader is not None
    theirs = module_from_spec(spec)
    spec.loader.exec_module(theirs)
    shape = {**vars(gpt(prepared).config), "bias": bias, "dropout": 0.0}
    model = theirs.GPT(theirs.GPTConfig(**shape)).eval()
    checkpoint, _ = trained("nanogpt", prepared, tmp_path / "export")
    torch.save({"model": model.state_dict(), "model_args": shape}, checkpoint)
    ids = torch.arange(48).view(2, 24)
    with torch.no_grad():
        logits, _ = model(ids, ids)  # with targets it gives every position's logits
    save_file({"ids": ids, "logits": logits.contiguous()}, checkpoint.with_name("reference.safetensors"))
    found = bring("nanogpt", checkpoint, tmp_path / "back")
    assert found.reference is not None
    assert found.reference.difference <= 1e-5
    assert found.counted == model.get_num_params(non_embedding=False)
