"""`smalltale export`: one prepared token folder out, in a framework's own format, with a recipe that runs.

In: a token folder, its tokenizer, a Plan. Out: a folder with data, recipe, README.md, the tokenizer and meta.json.
Beware: an export folder later holds what was trained in it, so one that exists is never written over.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

from smalltale.errors import FileProblem
from smalltale.files import explained, new_file, new_folder, provenance, sha256_of, write_json
from smalltale.frameworks.framework import Export, Framework, Plan
from smalltale.rules import Rules
from smalltale.tokens.shards import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, HEADS = 512, 8


def small_plan(vocabulary: int, **given: int | float | None) -> Plan:
    """A Plan that fills the small class, `given` in place of its values."""
    known = {key: value for key, value in given.items() if value is not None}
    shape = Plan(**{"vocabulary": vocabulary, "layers": 1, "width": WIDTH, "heads": HEADS, **known})  # type: ignore[arg-type]
    if "layers" in known:
        return shape
    budget = min(each.max_parameters for each in Rules().weight_classes)
    # The larger of a gated layer and of nanoGPT's, its learned positions beside the embedding.
    layer = max(4 * shape.width**2 + 3 * shape.width * shape.hidden, 12 * shape.width**2) + 2 * shape.width
    fixed = (vocabulary + shape.context + 1) * shape.width
    return Plan(**{**asdict(shape), "layers": max(1, (budget - fixed) // layer)})


def export(framework: Framework, tokens: Path, tokenizer: Path, out: Path, plan: Plan) -> Path:
    """Write the export folder `out`. Raises FileProblem where the parts do not fit, or `out` holds something."""
    began = time.monotonic()
    opened = read_tokens(tokens)
    check_parts(opened, Tokenizer.load(tokenizer), tokens, tokenizer)
    with explained(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileProblem(f"{out} exists and is not empty; choose a new folder")
    if len(opened.train) < plan.context + 1:
        raise FileProblem(
            f"{tokens} has {len(opened.train)} training tokens, a row takes {plan.context + 1}; encode more"
        )
    with new_folder(out) as folder:
        framework.export(Export(tokens=opened, plan=plan, tokenizer=tokenizer, out=folder))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).exists():
                shutil.copyfile(tokenizer / name, folder / name)
        fill(framework, "README.md", folder, plan)
        record = provenance(
            recipe=opened.meta.get("recipe"),
            inputs={"tokens": sha256_of(tokens / "meta.json"), "tokenizer": opened.meta["tokenizer_hash"]},
            counts={"train_tokens": len(opened.train), "val_tokens": len(opened.val)},
            seconds=time.monotonic() - began,
        )
        own = {
            "kind": "export",
            "format": 1,
            "framework": framework.name,
            "plan": asdict(plan),
            "dtype": opened.meta["dtype"],
            "end_id": opened.meta["end_id"],
            "pad_id": opened.meta["pad_id"],
        }
        write_json(folder / "meta.json", {**record, **own})
    return out


def check_parts(tokens: TokenFolder, tokenizer: Tokenizer, tokens_at: Path, tokenizer_at: Path) -> None:
    """Raise FileProblem unless the tokens were made with the tokenizer."""
    if tokens.meta.get("tokenizer_hash") != tokenizer.hash:
        raise FileProblem(
            f"{tokens_at} was encoded with another tokenizer than {tokenizer_at}; give that one with --tokenizer"
        )


def write_streams(export: Export, folder: Path) -> None:
    """train.bin and val.bin: all stories one after the other, each followed by the end token."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, array in (("train", export.tokens.train), ("val", export.tokens.val)):
        with new_file(folder / f"{split}.bin") as temporary, temporary.open("wb") as out:
            array.tofile(out)


def fill(framework: Framework, name: str, folder: Path, plan: Plan, **more: Any) -> None:
    """Copy a recipe file; one kept as NAME.template has its $names filled in."""
    own, shared = TEMPLATES / framework.name, TEMPLATES / "shared"
    for source in (own / f"{name}.template", own / name, shared / f"{name}.template", shared / name):
        if source.exists():
            break
    else:
        raise AssertionError(f"no template {name} for {framework.name}")
    text = source.read_text(encoding="utf-8")
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
            "checkout": f"\n   and get its checkout: `git clone {framework.needs_checkout} FOLDER`, `export {framework.name.upper()}=FOLDER`"
            if framework.needs_checkout
            else "",
            **framework.names,
            **more,
        }
        text = Template(text).substitute(names)
    with new_file(folder / name) as temporary:
        temporary.write_text(text, encoding="utf-8")
