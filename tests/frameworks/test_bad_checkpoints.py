"""Errors of bad checkpoints name the cause and the fix; nothing is written, and no code in them runs."""

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

from .checkpoints import import_trusted, save_reference, train_export
from .conftest import Prepared

PICKLES = ["nanogpt", "lightning", "fastai", "litgpt", "fastxtend", "blurr"]


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_not_opened_without_trust(name: str, prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export(name, prepared, tmp_path / "export")
    with pytest.raises(FileProblem, match="--trust"):
        import_checkpoint(get_framework(name), checkpoint, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


class Trap:
    """Unpickling an instance creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_is_not_run_even_when_trusted(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("fastai", prepared, tmp_path / "export")
    created_by_trap = tmp_path / "created_by_trap"
    torch.save({"model": {}, "trap": Trap(created_by_trap)}, checkpoint)
    with pytest.raises(FileProblem, match="with_opt=False"):
        import_trusted("fastai", checkpoint, tmp_path / "imported")
    assert not created_by_trap.exists()
    with checkpoint.with_name("plain.pth").open("wb") as out:
        pickle.dump(Trap(created_by_trap), out, protocol=2)
    with pytest.raises(FileProblem):
        import_trusted("fastai", checkpoint.with_name("plain.pth"), tmp_path / "imported")
    assert not created_by_trap.exists()


def test_logits_of_another_step_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, model = train_export("mlx", prepared, tmp_path / "export")
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    save_reference(model, checkpoint)
    with pytest.raises(FileProblem, match="another step or version"):
        import_trusted("mlx", checkpoint, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("name", "given_name", "message"),
    [("trainer", "accelerate", "--from trainer"), ("lightning", "fastai", "--from lightning")],
)
def test_an_export_of_another_framework_is_named(
    name: str, given_name: str, message: str, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = train_export(name, prepared, tmp_path / "export")
    with pytest.raises(FileProblem, match=message):
        import_trusted(given_name, checkpoint, tmp_path / "imported")


@pytest.mark.parametrize(
    ("name", "given_name"), [("lightning", "fastai"), ("nanogpt", "litgpt"), ("lightning", "nanogpt")]
)
def test_a_file_of_another_framework_is_named_outside_its_export_folder(
    name: str, given_name: str, prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint, _ = train_export(name, prepared, tmp_path / "export")
    alone = shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    with pytest.raises(FileProblem, match=f"--from {name}"):
        import_trusted(given_name, alone, tmp_path / "imported", tokenizer=prepared.tokenizer)


def test_a_file_that_is_not_a_nanogpt_checkpoint_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("fastai", prepared, tmp_path / "export")
    alone = shutil.copy(checkpoint, tmp_path / "alone.pt")
    with pytest.raises(FileProblem, match="no model and model_args"):
        import_trusted("nanogpt", alone, tmp_path / "imported", tokenizer=prepared.tokenizer)


def test_a_missing_checkpoint_config_or_tokenizer_is_reported(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("trainer", prepared, tmp_path / "export")
    with pytest.raises(FileProblem, match="train first"):
        import_trusted("trainer", tmp_path / "nothing", tmp_path / "imported")
    (tmp_path / "export" / "config.json").unlink()
    with pytest.raises(FileProblem, match=r"no config.json .* copy the export folder's config.json"):
        import_trusted("trainer", checkpoint, tmp_path / "imported")


def test_a_model_without_its_tokenizer_is_reported(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("nanogpt", prepared, tmp_path / "export")
    alone = shutil.copy(checkpoint, tmp_path / "alone.pt")
    with pytest.raises(FileProblem, match="--tokenizer"):
        import_trusted("nanogpt", alone, tmp_path / "imported")


def test_a_vocabulary_that_does_not_match_is_reported(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("accelerate", prepared, tmp_path / "export")
    small_tokenizer = tmp_path / "small"
    small_tokenizer.mkdir()
    train_tokenizer(["a little text of its own"], TokenizerConfig(vocabulary=270)).save(small_tokenizer)
    vocabulary_size = Tokenizer.load(small_tokenizer).vocabulary_size
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    config["vocab_size"] = vocabulary_size + 256
    (tmp_path / "export" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileProblem, match=r"embedding rows, .* --tokenizer"):
        import_trusted("accelerate", checkpoint, tmp_path / "imported", tokenizer=small_tokenizer)


def test_litgpt_needs_its_shape_and_its_own_names(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, _ = train_export("litgpt", prepared, tmp_path / "export")
    loaded = torch.load(checkpoint, weights_only=True)
    old = {name.replace("attn.qkv", "attn.attn"): weight for name, weight in loaded["model"].items()}
    torch.save({"model": old}, checkpoint)
    with pytest.raises(FileProblem, match="frameworks install litgpt"):
        import_trusted("litgpt", checkpoint, tmp_path / "imported")
    config_path = checkpoint.with_name("model_config.yaml")
    shape = yaml.safe_load(config_path.read_text())
    for wrong_shape, message in (
        ({**shape, "norm_class_name": "LayerNorm"}, "norm_class_name is 'LayerNorm'"),
        ({**shape, "n_query_groups": 1}, "attn.qkv.weight of shape"),
        ({key: size for key, size in shape.items() if key != "n_layer"}, "has no n_layer"),
        ([], "has no padded_vocab_size"),
    ):
        torch.save(loaded, checkpoint)
        config_path.write_text(yaml.safe_dump(wrong_shape))
        with pytest.raises(FileProblem, match=message):
            import_trusted("litgpt", checkpoint, tmp_path / "imported")
    config_path.unlink()
    with pytest.raises(FileProblem, match="litgpt writes it there"):
        import_trusted("litgpt", checkpoint, tmp_path / "imported")


def test_a_file_cut_short_is_reported(prepared: Prepared, tmp_path: Path) -> None:
    for name in ("lightning", "trainer"):
        checkpoint, _ = train_export(name, prepared, tmp_path / name)
        path = checkpoint if checkpoint.is_file() else checkpoint / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(FileProblem, match="copy it again"):
            import_trusted(name, checkpoint, tmp_path / "imported")
    (tmp_path / "trainer" / "model" / "model.safetensors").unlink()
    with pytest.raises(FileProblem, match=r"no model\.safetensors"):
        import_trusted("trainer", tmp_path / "trainer" / "model", tmp_path / "imported")


def test_a_model_that_lacks_a_weight_or_is_no_llama_is_reported(prepared: Prepared, tmp_path: Path) -> None:
    checkpoint, model = train_export("accelerate", prepared, tmp_path / "export")
    weights = {name: weight for name, weight in model.state_dict().items() if name != HEAD}
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(FileProblem, match=r"layers\.1\.mlp\.up_proj\.weight"):
        import_trusted("accelerate", checkpoint, tmp_path / "imported")
    save_file({"wte.weight": torch.zeros(3, 3)}, checkpoint / "model.safetensors")
    with pytest.raises(FileProblem, match=r"it begins with wte\.weight"):
        import_trusted("accelerate", checkpoint, tmp_path / "imported")


def test_llama2c_cannot_be_imported(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"cannot be imported.* docs/frameworks.md"):
        import_trusted("llama2c", tmp_path, tmp_path / "imported")
