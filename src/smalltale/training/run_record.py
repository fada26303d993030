"""The record of a run: what it was made of, what shows that it was trained from scratch, and its metrics.

In: a run's config, data and state. Out: the checkpoint's meta.json and metrics.jsonl.
Beware: the fingerprint holds all that must be the same for a run to go on; where it runs is not part of it. The record
leaves this machine with the model: files have their names and hashes in it, never their folders.
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

from smalltale.files import provenance
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import TokenFolder
from smalltale.training.checkpoint import RunState
from smalltale.training.device import Device
from smalltale.training.distributed import Ranks

WHERE = {"device", "compile", "checkpoint_seconds", "micro_batch_tokens", "track"}
"""Settings that may differ when a run goes on."""
FILES = {"sources", "validation", "keep_out", "vocabulary"}
"""Settings of a recipe's corpus that may be paths."""


def fingerprint(training: dict[str, Any], shape: ModelConfig, data: TokenFolder) -> str:
    """Hash of what must be the same for a run to go on."""
    same = {key: value for key, value in training.items() if key not in WHERE}
    told = json.dumps([same, asdict(shape), data.meta["hashes"]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def run_record(
    training: dict[str, Any],
    state: RunState,
    device: Device,
    ranks: Ranks,
    tokens: dict[str, Any],
    recipe: dict[str, Any] | None,
    *,
    finished: bool,
) -> dict[str, Any]:
    """The run's meta.json: what shows how the model came to be. tokens: the token folder's own meta.json."""
    record = provenance(
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
    told = {
        **record,
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
            "ranks": ranks.size,
            "system": platform.platform(),
        },
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fingerprint": state.fingerprint,
        "training": training,
    }
    return without_folders(told)


def without_folders(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose sources are named by their files alone."""
    recipe, sources = meta.get("recipe"), meta.get("sources")
    told = dict(meta)
    if isinstance(sources, dict):
        told["sources"] = by_name(sources)
    if isinstance(recipe, dict) and isinstance(recipe.get("corpus"), dict):
        corpus = {key: file_name(value) if key in FILES else value for key, value in recipe["corpus"].items()}
        told["recipe"] = {**recipe, "corpus": corpus}
    return told


def by_name(hashes: Mapping[str, str]) -> dict[str, str]:
    """Hashes by file name; a second file of a name has a number behind it."""
    told: dict[str, str] = {}
    for path, each in hashes.items():
        name = free = file_name(path)
        number = 1
        while free in told:
            number += 1
            free = f"{name} ({number})"
        told[free] = each
    return told


def file_name(value: Any) -> Any:
    """A path's last part, of NAME=PATH too, whichever system wrote it; of a list each one's."""
    if isinstance(value, (list, tuple)):
        return [file_name(each) for each in value]
    if not isinstance(value, str):
        return value
    short, equals, place = value.rpartition("=")
    if equals and PureWindowsPath(short).name != short:
        short, equals, place = "", "", value
    return short + equals + (PureWindowsPath(place).name or place)


def hash_of_weights(model: Transformer) -> str:
    """Hex SHA-256 of the weights' bytes in order of their names: what the seed gives before the first step."""
    told = hashlib.sha256()
    for name, each in sorted(model.state_dict().items()):
        told.update(name.encode())
        told.update(each.detach().cpu().numpy().tobytes())
    return told.hexdigest()
