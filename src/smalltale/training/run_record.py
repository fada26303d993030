"""The record of a run: its inputs, its hardware, and the evidence that it was trained from scratch.

Input: a run's config, data and state. Output: the checkpoint's meta.json.
Note: the fingerprint covers everything that must not change when a run resumes, but not where it runs. The record is
published with the model, so it names files by name and hash, never by folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PureWindowsPath
from typing import Any

import torch

from smalltale.files import provenance_record
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import TokenFolder
from smalltale.training.checkpoint import RunState
from smalltale.training.device import Device
from smalltale.training.distributed import Distributed

CHANGEABLE_SETTINGS = {"device", "compile", "checkpoint_seconds", "micro_batch_tokens", "track"}
"""Settings that may differ when a run resumes."""
PATH_SETTINGS = {"sources", "validation", "keep_out", "vocabulary"}
"""Settings in a recipe's corpus section that may be paths."""


def compute_fingerprint(training: dict[str, Any], shape: ModelConfig, data: TokenFolder) -> str:
    """Hash of everything that must be the same for a run to resume."""
    settings = {key: value for key, value in training.items() if key not in CHANGEABLE_SETTINGS}
    serialized = json.dumps([settings, asdict(shape), data.meta["hashes"]], sort_keys=True)
    return hashlib.sha256(serialized.encode()).hexdigest()


def build_run_record(
    training: dict[str, Any],
    state: RunState,
    device: Device,
    distributed: Distributed,
    tokens: dict[str, Any],
    recipe: dict[str, Any] | None,
    *,
    finished: bool,
) -> dict[str, Any]:
    """The content of the run's meta.json. tokens: the token folder's own meta.json."""
    provenance = provenance_record(
        recipe=recipe,
        inputs={
            "train_tokens": tokens["hashes"]["train"],
            "val_tokens": tokens["hashes"]["val"],
            "tokenizer": tokens["tokenizer_hash"],
            "corpus": tokens["inputs"]["corpus"],
        },
        counts={"steps": state.step, "tokens": state.tokens},
        seconds=state.seconds,
    )
    record = {
        **provenance,
        "kind": "checkpoint",
        "format": 1,
        "finished": finished,
        "trained_from_scratch": True,
        "first_weights": state.first_weights,
        "sources": tokens.get("sources", {}),
        "hardware": {
            "device": device.kind,
            "name": device.name,
            "dtype": str(device.dtype),
            "ranks": distributed.world_size,
            "system": platform.platform(),
        },
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fingerprint": state.fingerprint,
        "training": training,
    }
    return strip_folders(record)


def strip_folders(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its source paths reduced to file names."""
    recipe, sources = meta.get("recipe"), meta.get("sources")
    record = dict(meta)
    if isinstance(sources, dict):
        record["sources"] = hash_by_file_name(sources)
    if isinstance(recipe, dict) and isinstance(recipe.get("corpus"), dict):
        corpus = {
            key: strip_folder(setting) if key in PATH_SETTINGS else setting
            for key, setting in recipe["corpus"].items()
        }
        record["recipe"] = {**recipe, "corpus": corpus}
    return record


def hash_by_file_name(hash_by_path: Mapping[str, str]) -> dict[str, str]:
    """Hashes by file name; a second file with the same name gets a number."""
    hashes: dict[str, str] = {}
    for path, file_hash in hash_by_path.items():
        name = unique_name = strip_folder(path)
        number = 1
        while unique_name in hashes:
            number += 1
            unique_name = f"{name} ({number})"
        hashes[unique_name] = file_hash
    return hashes


def strip_folder(setting: Any) -> Any:
    """The last part of a path or of the path in NAME=PATH, for POSIX and Windows paths; applied to each path of a list."""
    if isinstance(setting, (list, tuple)):
        return [strip_folder(path) for path in setting]
    if not isinstance(setting, str):
        return setting
    name, equals, path = setting.rpartition("=")
    if equals and PureWindowsPath(name).name != name:
        name, equals, path = "", "", setting
    return name + equals + (PureWindowsPath(path).name or path)


def hash_weights(model: Transformer) -> str:
    """Hex SHA-256 of the weights' bytes in order of their names; before the first step it is determined by the seed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
