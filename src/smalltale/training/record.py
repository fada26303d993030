"""The record of a run: what it was made of, what shows that it was trained from scratch, and its metrics.

In: a run's config, data and state. Out: the checkpoint's meta.json and metrics.jsonl.
Beware: the fingerprint holds all that must be the same for a run to go on; where it runs is not part of it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from typing import Any

import torch

from smalltale.files import provenance
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import TokenFolder
from smalltale.training.checkpoint import RunState
from smalltale.training.device import Device
from smalltale.training.ranks import Ranks

WHERE = {"device", "compile", "checkpoint_seconds", "micro_batch_tokens", "track"}
"""Settings that may differ when a run goes on."""


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
    return {
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


def hash_of_weights(model: Transformer) -> str:
    """Hex SHA-256 of the weights' bytes in order of their names: what the seed gives before the first step."""
    told = hashlib.sha256()
    for name, each in sorted(model.state_dict().items()):
        told.update(name.encode())
        told.update(each.detach().cpu().numpy().tobytes())
    return told.hexdigest()
