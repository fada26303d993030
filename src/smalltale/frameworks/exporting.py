"""`smalltale export`: writes tokens in a framework's own format, with a recipe that trains on them.

Input: a token folder, its tokenizer, an ExportPlan. Output: a folder with data, recipe, README.md, the tokenizer and meta.json.
An existing export folder is never overwritten, because training writes its checkpoint there.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

from smalltale.errors import FileProblem
from smalltale.files import (
    atomic_file,
    atomic_folder,
    provenance_record,
    sha256_file,
    translate_os_errors,
    write_json,
)
from smalltale.frameworks.framework import ExportPlan, ExportRequest, Framework
from smalltale.rules import Rules
from smalltale.tokens.token_folder import read_tokens
from smalltale.tokens.tokenizer import Tokenizer

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, HEADS = 512, 8


def plan_for_small_class(vocabulary: int, **overrides: int | float | None) -> ExportPlan:
    """An ExportPlan with as many layers as the small class allows; `overrides` that are not None replace its values."""
    chosen = {key: value for key, value in overrides.items() if value is not None}
    shape = ExportPlan(**{"vocabulary": vocabulary, "layers": 1, "width": WIDTH, "heads": HEADS, **chosen})  # type: ignore[arg-type]
    if "layers" in chosen:
        return shape
    budget = min(weight_class.max_parameters for weight_class in Rules().weight_classes)
    # The larger of a gated layer and nanoGPT's layer; nanoGPT's learned positions count next to the embedding.
    layer = max(4 * shape.width**2 + 3 * shape.width * shape.hidden, 12 * shape.width**2) + 2 * shape.width
    fixed = (vocabulary + shape.context + 1) * shape.width
    return ExportPlan(**{**asdict(shape), "layers": max(1, (budget - fixed) // layer)})


def export(framework: Framework, tokens: Path, tokenizer: Path, out: Path, plan: ExportPlan) -> Path:
    """Write the export folder `out`. Raises FileProblem if the parts do not match or `out` is not empty."""
    began = time.monotonic()
    token_folder = read_tokens(tokens)
    if token_folder.meta.get("tokenizer_hash") != Tokenizer.load(tokenizer).hash:
        raise FileProblem(f"{tokens} was not encoded with {tokenizer}; name its tokenizer with --tokenizer")
    with translate_os_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileProblem(f"{out} exists and is not empty; choose a new folder")
    if len(token_folder.train) < plan.context + 1:
        raise FileProblem(
            f"{tokens} has {len(token_folder.train)} training tokens, fewer than one row of {plan.context + 1}; encode more stories"
        )
    with atomic_folder(out) as folder:
        framework.export(ExportRequest(tokens=token_folder, plan=plan, tokenizer=tokenizer, out=folder))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).exists():
                shutil.copyfile(tokenizer / name, folder / name)
        render_template(framework, "README.md", folder, plan)
        record = provenance_record(
            recipe=token_folder.meta.get("recipe"),
            inputs={
                "tokens": sha256_file(tokens / "meta.json"),
                "tokenizer": token_folder.meta["tokenizer_hash"],
            },
            counts={"train_tokens": len(token_folder.train), "val_tokens": len(token_folder.val)},
            seconds=time.monotonic() - began,
        )
        fields = {
            "kind": "export",
            "format": 1,
            "framework": framework.name,
            "plan": asdict(plan),
            "dtype": token_folder.meta["dtype"],
            "end_id": token_folder.meta["end_id"],
            "pad_id": token_folder.meta["pad_id"],
        }
        write_json(folder / "meta.json", {**record, **fields})
    return out


def write_streams(export: ExportRequest, folder: Path) -> None:
    """Write train.bin and val.bin: all stories, each followed by the end token."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, ids in (("train", export.tokens.train), ("val", export.tokens.val)):
        with atomic_file(folder / f"{split}.bin") as temporary, temporary.open("wb") as out:
            ids.tofile(out)


def render_template(
    framework: Framework, name: str, folder: Path, plan: ExportPlan, **variables: Any
) -> None:
    """Write recipe file `name` to `folder`: a copy, or a NAME.template with its $variables substituted."""
    own, shared = TEMPLATES / framework.name, TEMPLATES / "shared"
    for source in (own / f"{name}.template", own / name, shared / f"{name}.template", shared / name):
        if source.exists():
            break
    else:
        raise AssertionError(f"no template {name} for {framework.name}")
    text = source.read_text(encoding="utf-8")
    checkout = ""
    if framework.needs_checkout:
        clone, variable = f"git clone {framework.needs_checkout} FOLDER", framework.name.upper()
        checkout = f"\n   and get its checkout: `{clone}`, `export {variable}=FOLDER`"
    if source.suffix == ".template":
        names = {
            **asdict(plan),
            "hidden": plan.hidden,
            "warmup_steps": plan.warmup_steps,
            "eval_steps": max(1, min(250, plan.steps)),
            "min_learning_rate": plan.learning_rate / 10,
            "name": framework.name,
            "title": framework.title,
            "train": "\n".join(f"   {line}" for line in framework.train),
            "checkpoint": framework.checkpoint,
            "trust": " --trust" if framework.needs_trust else "",
            "checkout": checkout,
            **framework.names,
            **variables,
        }
        text = Template(text).substitute(names)
    with atomic_file(folder / name) as temporary:
        temporary.write_text(text, encoding="utf-8")
