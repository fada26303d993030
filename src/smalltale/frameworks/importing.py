"""`smalltale import`: turns another trainer's checkpoint into a folder that count, evaluate and generate accept.

Input: a checkpoint and its framework. Output: model.safetensors, config.json, the tokenizer, meta.json.
The weights stay those of the framework's own model class, so the count is the native one. If the run wrote
reference.safetensors (ids and the logits of its own model), our logits must agree with it.
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
from smalltale.files import atomic_folder, provenance_record, read_json, sha256_file, write_json
from smalltale.frameworks.framework import Framework, ImportedModel
from smalltale.frameworks.reading import find_upwards, weight_files
from smalltale.model.foreign import open_foreign_model
from smalltale.rules import Rules
from smalltale.tokens.tokenizer import Tokenizer

MAX_LOGIT_DIFFERENCE = 1e-5
"""Largest accepted difference of a float32 logit, relative to logits of magnitude up to 1: only names changed."""
PADDED_ROWS = 256
"""Trainers round the number of embedding rows up to a multiple of at most this."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Comparison of the imported model with the framework's own."""

    difference: float
    """Largest logit difference."""
    parameters: int | None
    """Number of weights that the framework reports for its model."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import."""

    out: Path
    counted: int
    weight_class: str | None
    reference: Reference | None
    """None if the run wrote no reference logits."""


def import_checkpoint(
    framework: Framework, checkpoint: Path, out: Path, *, trust: bool = False, tokenizer: Path | None = None
) -> Imported:
    """Write the checkpoint folder `out`. Raises FileProblem if its parts do not match or the logits differ."""
    began = time.monotonic()
    if framework.read is None:
        raise FileProblem(f"{framework.title} checkpoints cannot be imported; see docs/frameworks.md")
    export = check_export(framework, checkpoint)
    imported = framework.read(checkpoint, trust)
    loaded_tokenizer = load_tokenizer(checkpoint, tokenizer, imported)
    with atomic_folder(out) as folder:
        weights = {name: weight.contiguous() for name, weight in imported.weights.items()}
        save_file(weights, folder / "model.safetensors")
        write_json(folder / "config.json", imported.config)
        model = open_foreign_model(folder)
        counted = count_parameters(model.inner)
        weight_class = Rules().class_for(counted.counted)
        class_name = weight_class.name if weight_class else None
        count = {"counted_parameters": counted.counted, "weight_class": class_name}
        write_json(folder / "config.json", {**imported.config, **count})
        loaded_tokenizer.save(folder)
        reference = compare_logits(model, checkpoint)
        record = provenance_record(
            recipe=export.get("recipe"),
            inputs={path.name: sha256_file(path) for path in weight_files(checkpoint)},
            counts={"counted_parameters": counted.counted},
            seconds=time.monotonic() - began,
        )
        fields = {
            "kind": "checkpoint",
            "format": 1,
            "framework": framework.name,
            "reference": asdict(reference) if reference else None,
            "plan": export.get("plan"),
        }
        write_json(folder / "meta.json", {**record, **fields})
    return Imported(out=out, counted=counted.counted, weight_class=class_name, reference=reference)


def check_export(framework: Framework, checkpoint: Path) -> dict[str, object]:
    """The meta.json of the export folder that has the checkpoint; {} if there is none. Raises FileProblem."""
    if not checkpoint.exists():
        raise FileProblem(f"{checkpoint} does not exist; train first: see README.md in the export folder")
    path = find_upwards(checkpoint, "meta.json")
    meta = read_json(path) if path else {}
    if not isinstance(meta, dict) or meta.get("kind") != "export":
        return {}
    if meta.get("framework") != framework.name:
        raise FileProblem(
            f"{checkpoint} is in an export for {meta.get('framework')}, not {framework.name}; "
            f"use --from {meta.get('framework')}"
        )
    return meta


def load_tokenizer(checkpoint: Path, folder: Path | None, imported: ImportedModel) -> Tokenizer:
    """Load the tokenizer and make it prepend the start token. Raises FileProblem if it does not match the model."""
    path = find_upwards(checkpoint, "tokenizer.json")
    folder = folder or (path.parent if path else None)
    if folder is None:
        raise FileProblem(f"no tokenizer.json in {checkpoint} or above it; name its folder with --tokenizer")
    tokenizer = Tokenizer.load(folder)
    rows = int(imported.config.get("vocab_size", 0))
    if not tokenizer.vocabulary_size <= rows < tokenizer.vocabulary_size + PADDED_ROWS:
        raise FileProblem(
            f"the model has {rows:,} embedding rows, the tokenizer in {folder} {tokenizer.vocabulary_size:,} tokens; "
            "name the tokenizer it was trained with: --tokenizer FOLDER"
        )
    # In the exported data an end token precedes every story, so it precedes a prompt too.
    tokenizer.engine.post_processor = processors.TemplateProcessing(
        single=f"{tokenizer.end_token} $A", special_tokens=[(tokenizer.end_token, tokenizer.end_id)]
    )
    return tokenizer


def compare_logits(model: torch.nn.Module, checkpoint: Path) -> Reference | None:
    """Compare our logits with those of the framework's own model. Raises FileProblem if they differ."""
    path = find_upwards(checkpoint, "reference.safetensors")
    if path is None:
        return None
    with safe_open(path, framework="pt") as file:
        reference = {name: file.get_tensor(name) for name in ("ids", "logits")}
        parameters = (file.metadata() or {}).get("parameters")
    with torch.inference_mode():
        ours: Tensor = model(reference["ids"])
    theirs = reference["logits"].float()
    if ours.shape != theirs.shape:
        raise FileProblem(
            f"{path} has logits of shape {tuple(theirs.shape)}, the imported model gives {tuple(ours.shape)}; "
            "they are of different runs"
        )
    difference = float((ours - theirs).abs().max())
    if not difference <= MAX_LOGIT_DIFFERENCE * max(1.0, float(theirs.abs().max())):
        raise FileProblem(
            f"our logits differ from those in {path} by up to {difference:.2e}; "
            "the checkpoint is of another step or version: write reference.safetensors again"
        )
    return Reference(difference=difference, parameters=int(parameters) if parameters else None)
