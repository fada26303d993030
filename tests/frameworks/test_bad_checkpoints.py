"""What is wrong with a checkpoint is named, with what to do; nothing is written and no code of it runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from smalltale.errors import FileProblem
from smalltale.frameworks.framework import get_framework
from smalltale.frameworks.importing import import_checkpoint
from smalltale.frameworks.llama import HEAD
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

from .checkpoints import bring, keep_reference, trained
from .conftest import Prepared

PICKLES = ["nanogpt", "lightning", "fastai", "litgpt", "fastxtend", "blurr"]


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_not_opened_without_trust(name: str, prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained(name, prepared, tmp_path / "export")
    with pytest.raises(FileProblem, match="--trust"):
        import_checkpoint(get_framework(name), checkpoint, tmp_path / "back")
    assert not (tmp_path / "back").exists()


class Trap:
    """A pickle of this makes a folder when it is opened by Python's own reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_is_not_run_even_when_trusted(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("fastai", prepared, tmp_path / "export")
    sprung = tmp_path / "sprung"
    torch.save({"model": {}, "trap": Trap(sprung)}, checkpoint)
    with pytest.raises(FileProblem, match="with_opt=False"):
        bring("fastai", checkpoint, tmp_path / "back")
    assert not sprung.exists()
    with checkpoint.with_name("plain.pth").open("wb") as out:
        pickle.dump(Trap(sprung), out, protocol=2)
    with pytest.raises(FileProblem):
        bring("fastai", checkpoint.with_name("plain.pth"), tmp_path / "back")
    assert not sprung.exists()


def test_logits_of_another_step_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, model = trained("mlx", prepared, tmp_path / "export")
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    keep_reference(model, checkpoint)
    with pytest.raises(FileProblem, match="another step or version"):
        bring("mlx", checkpoint, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("name", "said", "means"),
    [("trainer", "accelerate", "--from trainer"), ("lightning", "fastai", "--from lightning")],
)
def test_an_export_of_another_framework_is_named(
    name: str, said: str, means: str, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = trained(name, prepared, tmp_path / "export")
    with pytest.raises(FileProblem, match=means):
        bring(said, checkpoint, tmp_path / "back")


@pytest.mark.parametrize(
    ("name", "said"), [("lightning", "fastai"), ("nanogpt", "litgpt"), ("lightning", "nanogpt")]
)
def test_a_file_of_another_framework_is_named_wherever_it_lies(
    name: str, said: str, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = trained(name, prepared, tmp_path / "export")
    alone = shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    with pytest.raises(FileProblem, match=f"--from {name}"):
        bring(said, alone, tmp_path / "back", tokenizer=prepared.tokenizer)


def test_a_file_that_is_no_checkpoint_of_nanogpt_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("fastai", prepared, tmp_path / "export")
    alone = shutil.copy(checkpoint, tmp_path / "alone.pt")
    with pytest.raises(FileProblem, match="no model and model_args"):
        bring("nanogpt", alone, tmp_path / "back", tokenizer=prepared.tokenizer)


def test_a_missing_checkpoint_config_or_tokenizer_is_told(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("trainer", prepared, tmp_path / "export")
    with pytest.raises(FileProblem, match="train first"):
        bring("trainer", tmp_path / "nothing", tmp_path / "back")
    (tmp_path / "export" / "config.json").unlink()
    with pytest.raises(FileProblem, match=r"no config.json .* copy the export folder's config.json"):
        bring("trainer", checkpoint, tmp_path / "back")


def test_a_model_without_its_tokenizer_is_told(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("nanogpt", prepared, tmp_path / "export")
    alone = shutil.copy(checkpoint, tmp_path / "alone.pt")
    with pytest.raises(FileProblem, match="--tokenizer"):
        bring("nanogpt", alone, tmp_path / "back")


def test_a_vocabulary_that_does_not_match_is_told(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("accelerate", prepared, tmp_path / "export")
    other = tmp_path / "other"
    other.mkdir()
    train_tokenizer(["a little text of its own"], TokenizerConfig(vocabulary=270)).save(other)
    save = Tokenizer.load(other).vocabulary_size
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    config["vocab_size"] = save + 256
    (tmp_path / "export" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileProblem, match=r"embedding rows, .* --tokenizer"):
        bring("accelerate", checkpoint, tmp_path / "back", tokenizer=other)


def test_litgpt_needs_its_shape_and_its_own_names(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = trained("litgpt", prepared, tmp_path / "export")
    loaded = torch.load(checkpoint, weights_only=True)
    old = {name.replace("attn.qkv", "attn.attn"): each for name, each in loaded["model"].items()}
    torch.save({"model": old}, checkpoint)
    with pytest.raises(FileProblem, match="frameworks install litgpt"):
        bring("litgpt", checkpoint, tmp_path / "back")
    place = checkpoint.with_name("model_config.yaml")
    shape = yaml.safe_load(place.read_text())
    for wrong, message in (
        ({**shape, "norm_class_name": "LayerNorm"}, "norm_class_name is 'LayerNorm'"),
        ({**shape, "n_query_groups": 1}, "attn.qkv.weight of shape"),
        ({name: each for name, each in shape.items() if name != "n_layer"}, "has no n_layer"),
        ([], "has no padded_vocab_size"),
    ):
        torch.save(loaded, checkpoint)
        place.write_text(yaml.safe_dump(wrong))
        with pytest.raises(FileProblem, match=message):
            bring("litgpt", checkpoint, tmp_path / "back")
    place.unlink()
    with pytest.raises(FileProblem, match="litgpt writes it there"):
        bring("litgpt", checkpoint, tmp_path / "back")


def test_a_file_cut_short_is_told(prepared: Prepared, tmp_path: Path) -> None:
    for name in ("lightning", "trainer"):
        checkpoint, _ = trained(name, prepared, tmp_path / name)
        path = checkpoint if checkpoint.is_file() else checkpoint / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(FileProblem, match="copy it again"):
            bring(name, checkpoint, tmp_path / "back")
    (tmp_path / "trainer" / "model" / "model.safetensors").unlink()
    with pytest.raises(FileProblem, match=r"no model\.safetensors"):
        bring("trainer", tmp_path / "trainer" / "model", tmp_path / "back")


def test_a_model_that_lacks_a_weight_or_is_no_llama_is_told(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, model = trained("accelerate", prepared, tmp_path / "export")
    weights = {name: each for name, each in model.state_dict().items() if name != HEAD}
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(FileProblem, match=r"layers\.1\.mlp\.up_proj\.weight"):
        bring("accelerate", checkpoint, tmp_path / "back")
    save_file({"wte.weight": torch.zeros(3, 3)}, checkpoint / "model.safetensors")
    with pytest.raises(FileProblem, match=r"it begins with wte\.weight"):
        bring("accelerate", checkpoint, tmp_path / "back")


def test_llama2c_has_no_way_back(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"cannot be imported.* docs/frameworks.md"):
        bring("llama2c", tmp_path, tmp_path / "back")
