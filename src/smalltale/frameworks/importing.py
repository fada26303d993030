"""`smalltale import`: another trainer's checkpoint in, as a folder that is counted, scored, generates and is handed in.

In: a checkpoint and its framework. Out: model.safetensors, config.json, the tokenizer, meta.json.
Beware: the weights stay those of the framework's own class, so its count is the native one; where the run left
reference.safetensors (ids, and the logits its own model gave for them), our logits are compared with those.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor

from smalltale.counting.count import count_parameters
from smalltale.errors import FileProblem
from smalltale.files import new_folder, provenance, read_json, sha256_of, write_json
from smalltale.frameworks.framework import Framework, Native
from smalltale.frameworks.reading import near, weight_files
from smalltale.model.foreign import open_outside
from smalltale.rules import Rules
from smalltale.tokens.tokenizer import Tokenizer

MOST_DIFFERENCE = 1e-5
"""Largest difference of a float32 logit where only names changed, for logits of up to 1 in size."""
PADDED_ROWS = 256
"""Trainers round the embedding's rows up to a multiple of at most this."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The framework's own model beside ours."""

    difference: float
    """Largest difference of a logit."""
    parameters: int | None
    """How many weights the framework's model has by its own account."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import found."""

    out: Path
    counted: int
    weight_class: str | None
    reference: Reference | None
    """None where the run left none to compare with."""


def import_checkpoint(
    framework: Framework, checkpoint: Path, out: Path, *, trust: bool = False, tokenizer: Path | None = None
) -> Imported:
    """Write the checkpoint folder `out`. Raises FileProblem where the parts do not fit or the logits differ."""
    began = time.monotonic()
    if framework.read is None:
        raise FileProblem(f"{framework.title} has no way back here; see docs/frameworks.md")
    export = check_export(framework, checkpoint)
    native = framework.read(checkpoint, trust)
    told = tokenizer_of(checkpoint, tokenizer, native)
    with new_folder(out) as folder:
        save_file(
            {name: each.contiguous() for name, each in native.weights.items()}, folder / "model.safetensors"
        )
        write_json(folder / "config.json", native.config)
        model = open_outside(folder)
        counted = count_parameters(model.inner)
        weight_class = Rules().class_for(counted.counted)
        named = {
            "counted_parameters": counted.counted,
            "weight_class": weight_class.name if weight_class else None,
        }
        write_json(folder / "config.json", {**native.config, **named})
        told.save(folder)
        reference = compare(model, checkpoint)
        record = provenance(
            recipe=export.get("recipe"),
            inputs={path.name: sha256_of(path) for path in weight_files(checkpoint)},
            counts={"counted_parameters": counted.counted},
            seconds=time.monotonic() - began,
        )
        own = {
            "kind": "checkpoint",
            "format": 1,
            "framework": framework.name,
            "reference": asdict(reference) if reference else None,
            "plan": export.get("plan"),
        }
        write_json(folder / "meta.json", {**record, **own})
    return Imported(
        out=out,
        counted=counted.counted,
        weight_class=weight_class.name if weight_class else None,
        reference=reference,
    )


def check_export(framework: Framework, checkpoint: Path) -> dict[str, object]:
    """The record of the export folder the checkpoint lies in, {} where it lies elsewhere. Raises FileProblem."""
    if not checkpoint.exists():
        raise FileProblem(f"{checkpoint} does not exist; train first, as the export folder's README.md says")
    found = near(checkpoint, "meta.json")
    told = read_json(found) if found else {}
    if not isinstance(told, dict) or told.get("kind") != "export":
        return {}
    if told.get("framework") != framework.name:
        raise FileProblem(
            f"{checkpoint} lies in an export for {told.get('framework')}, not {framework.name}; "
            f"use --from {told.get('framework')}"
        )
    return told


def tokenizer_of(checkpoint: Path, given: Path | None, native: Native) -> Tokenizer:
    """The tokenizer, made to read a story from its start token on. Raises FileProblem where it is not the model's."""
    found = near(checkpoint, "tokenizer.json")
    place = given or (found.parent if found else None)
    if place is None:
        raise FileProblem(
            f"no tokenizer.json in {checkpoint} or above it; name the tokenizer folder with --tokenizer"
        )
    tokenizer = Tokenizer.load(place)
    rows = int(native.config.get("vocab_size", 0))
    if not tokenizer.vocabulary <= rows < tokenizer.vocabulary + PADDED_ROWS:
        raise FileProblem(
            f"the model has {rows:,} rows in its embedding, the tokenizer in {place} {tokenizer.vocabulary:,} tokens; "
            "name the one it was trained with: --tokenizer FOLDER"
        )
    # Every story in the exported data stands behind an end token, so a prompt does too.
    tokenizer.engine.post_processor = processors.TemplateProcessing(
        single=f"{tokenizer.end_token} $A", special_tokens=[(tokenizer.end_token, tokenizer.end_id)]
    )
    return tokenizer


def compare(model: torch.nn.Module, checkpoint: Path) -> Reference | None:
    """Our logits beside those that the framework's own model gave. Raises FileProblem where they differ."""
    path = near(checkpoint, "reference.safetensors")
    if path is None:
        return None
    with safe_open(path, framework="pt") as opened:
        reference = {name: opened.get_tensor(name) for name in ("ids", "logits")}
        parameters = (opened.metadata() or {}).get("parameters")
    with torch.inference_mode():
        ours: Tensor = model(reference["ids"])
    theirs = reference["logits"].float()
    if ours.shape != theirs.shape:
        raise FileProblem(
            f"{path} has logits of shape {tuple(theirs.shape)}, the imported model gives {tuple(ours.shape)}; "
            "they are not of one run"
        )
    difference = float((ours - theirs).abs().max())
    if not difference <= MOST_DIFFERENCE * max(1.0, float(theirs.abs().max())):
        raise FileProblem(
            f"our logits differ from those in {path} by up to {difference:.2e}; "
            "the checkpoint is of another step or another version: write reference.safetensors anew"
        )
    return Reference(difference=difference, parameters=int(parameters) if parameters else None)
