"""Opens checkpoints of other trainers: safetensors directly, pickles only if the user trusts them.

Input: a file or folder. Output: tensors by name.
Pitfall: torch.load(weights_only=True) still parses a pickle, so --trust is required even though no code in it runs.
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
from smalltale.files import read_json, translate_os_errors

MAX_PARENTS = 4
"""A checkpoint is at most this many folder levels below its export folder."""
MARKER_KEYS = (("pytorch-lightning_version", "lightning"), ("model_args", "nanogpt"), ("state", "composer"))
"""Top-level checkpoint keys that only one framework writes."""


def load_pickle(path: Path, trust: bool, expected: str) -> Any:
    """Load a .pt, .pth or .ckpt file, which should be a checkpoint of framework `expected`.

    Raises FileProblem if it is not trusted, incomplete, or another framework's.
    """
    if not trust:
        raise FileProblem(f"{path} is a pickle, which can run code when opened; pass --trust if you trust it")
    with translate_os_errors(path):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise FileProblem(
                f"{path} holds more than tensors and plain values, which is not run; "
                "save its weights alone, for example as safetensors (in fastai: learn.save(name, with_opt=False))"
            ) from error
        except (RuntimeError, EOFError, ValueError, KeyError) as error:
            kind = type(error).__name__
            raise FileProblem(f"{path} is not a complete torch file ({kind}); copy it again") from error
    for key, name in MARKER_KEYS:
        if isinstance(loaded, dict) and key in loaded and name != expected:
            raise FileProblem(f"{path} is a checkpoint of {name}, not of {expected}; use --from {name}")
    return loaded


def weight_files(checkpoint: Path) -> list[Path]:
    """A checkpoint's weight files: itself, or a folder's model*.safetensors, or else its torch files."""
    if checkpoint.is_file():
        return [checkpoint]
    safetensors = sorted(checkpoint.glob("model*.safetensors"))
    pickles = (path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth", ".ckpt"))
    return safetensors or sorted(pickles)


def load_safetensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder's model*.safetensors, or of the file itself. Raises FileProblem."""
    paths = [path for path in weight_files(folder) if path.suffix == ".safetensors"]
    if not paths:
        raise FileProblem(f"{folder} has no model.safetensors; give the folder that the training run wrote")
    try:
        return {name: weight for path in paths for name, weight in load_file(path).items()}
    except SafetensorError as error:
        raise FileProblem(f"{paths[0]} is cut short or not safetensors ({error}); copy it again") from error


def load_weights(
    checkpoint: Path, trust: bool, expected: str, inside: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Tensors by name, from a safetensors file or folder, or from a pickle under the nested keys `inside`."""
    with translate_os_errors(checkpoint):
        if not checkpoint.exists():
            raise FileProblem(f"{checkpoint} does not exist; train first: see README.md in the export folder")
    if checkpoint.is_dir() or checkpoint.suffix == ".safetensors":
        return load_safetensors(checkpoint)
    loaded = load_pickle(checkpoint, trust, expected)
    for key in inside:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = loaded.items() if isinstance(loaded, Mapping) else ()
    weights = {name: tensor for name, tensor in tensors if isinstance(tensor, Tensor)}
    if not weights:
        raise FileProblem(f"{checkpoint} has no weights of {expected}; name its framework with --from")
    return weights


def find_upwards(checkpoint: Path, name: str) -> Path | None:
    """The nearest file `name` in the checkpoint's folder or its parents within the export folder."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.absolute().parent
    for parent in (folder, *list(folder.absolute().parents)[: MAX_PARENTS - 1]):
        if (parent / name).is_file():
            return parent / name
    return None


def hugging_face_config(checkpoint: Path) -> dict[str, Any]:
    """The config.json that describes the checkpoint. Raises FileProblem if it is missing."""
    path = find_upwards(checkpoint, "config.json")
    if path is None:
        raise FileProblem(
            f"no config.json in {checkpoint} or above it; copy the export folder's config.json next to the checkpoint"
        )
    config = read_json(path)
    if not isinstance(config, dict) or "model_type" not in config:
        raise FileProblem(f"{path} has no model_type; replace it with the export folder's config.json")
    return config
