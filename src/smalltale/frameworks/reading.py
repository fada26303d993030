"""A checkpoint of another trainer, opened: safetensors as they are, pickles only where the user trusts them.

In: a file or folder. Out: tables of tensors.
Beware: torch.load(weights_only=True) still reads a pickle; it is asked for with --trust, and then only tensors and
plain values of it are taken.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.files import explained, read_json

HOW_FAR_UP = 4
"""A checkpoint lies at most so many folders below its export folder."""
SIGNS = (
    ("pytorch-lightning_version", "lightning"),
    ("model_args", "nanogpt"),
    ("state", "composer"),
)
"""A key at the top of a checkpoint file that only one framework writes."""


def load_pickle(path: Path, trust: bool, wanted: str) -> Any:
    """What a .pt, .pth or .ckpt file holds. Raises FileProblem where it is not trusted or not whole.

    wanted: the framework whose checkpoint it should be.
    """
    if not trust:
        raise FileProblem(
            f"{path} is a pickle, which may run code when opened; if it is your own, say --trust"
        )
    with explained(path):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise FileProblem(
                f"{path} holds more than tensors and plain values, which is not run; "
                "save its weights alone, for example as safetensors (in fastai: learn.save(name, with_opt=False))"
            ) from error
        except (RuntimeError, EOFError, ValueError, KeyError) as error:
            raise FileProblem(
                f"{path} is not a whole torch file ({type(error).__name__}); copy it again"
            ) from error
    for key, name in SIGNS:
        if isinstance(loaded, dict) and key in loaded and name != wanted:
            raise FileProblem(f"{path} is a checkpoint of {name}, not of {wanted}; use --from {name}")
    return loaded


def weight_files(checkpoint: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: itself, or a folder's model*.safetensors, else its torch files."""
    if checkpoint.is_file():
        return [checkpoint]
    found = sorted(checkpoint.glob("model*.safetensors"))
    return found or sorted(each for each in checkpoint.iterdir() if each.suffix in (".pt", ".pth", ".ckpt"))


def load_safetensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder's model*.safetensors, or of the file itself. Raises FileProblem."""
    paths = [each for each in weight_files(folder) if each.suffix == ".safetensors"]
    if not paths:
        raise FileProblem(f"{folder} holds no model.safetensors; give the folder that the training run wrote")
    try:
        return {name: each for path in paths for name, each in load_file(path).items()}
    except SafetensorError as error:
        raise FileProblem(f"{paths[0]} is cut short or not safetensors ({error}); copy it again") from error


def load_weights(
    checkpoint: Path, trust: bool, wanted: str, inside: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Tensors by name: a safetensors file or folder, or a pickle whose tables `inside` lead to them."""
    with explained(checkpoint):
        if not checkpoint.exists():
            raise FileProblem(
                f"{checkpoint} does not exist; train first, as the export folder's README.md says"
            )
    if checkpoint.is_dir() or checkpoint.suffix == ".safetensors":
        return load_safetensors(checkpoint)
    loaded = load_pickle(checkpoint, trust, wanted)
    for key in inside:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    found = (
        {name: each for name, each in loaded.items() if isinstance(each, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not found:
        raise FileProblem(
            f"{checkpoint} holds no weights of {wanted}; is it another framework's? name it with --from"
        )
    return found


def near(checkpoint: Path, name: str) -> Path | None:
    """The file `name` in the checkpoint's folder or one of the few above it."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.absolute().parent
    for place in (folder, *list(folder.absolute().parents)[: HOW_FAR_UP - 1]):
        if (place / name).is_file():
            return place / name
    return None


def hugging_face_config(checkpoint: Path) -> dict[str, Any]:
    """The config.json that describes the checkpoint. Raises FileProblem where there is none."""
    found = near(checkpoint, "config.json")
    if found is None:
        raise FileProblem(
            f"no config.json in {checkpoint} or above it; put the export folder's config.json beside the checkpoint"
        )
    config = read_json(found)
    if not isinstance(config, dict) or "model_type" not in config:
        raise FileProblem(f"{found} names no model_type; put the export folder's config.json in its place")
    return config
