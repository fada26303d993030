"""Exports a checkpoint for publication: a clean folder for transformers or a GGUF file, with a model card.

Input: a checkpoint folder. Output: an export folder, verified by loading it back.
Note: verification runs the modeling_smalltale.py that this version writes, never code from the checkpoint folder.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.export.gguf import largest_gguf_difference, write_gguf
from smalltale.export.model_card import write_card
from smalltale.files import (
    atomic_folder,
    provenance_record,
    read_json,
    sha256_file,
    translate_os_errors,
    write_json,
)
from smalltale.model.serialization import write_model
from smalltale.model.transformer import Transformer
from smalltale.training.checkpoint import Checkpoint, load_checkpoint
from smalltale.training.run_record import strip_folders

log = logging.getLogger(__name__)

FORMATS = ("transformers", "gguf")
MAX_DIFFERENCE = 1e-4
"""Tolerance in float32: of logits, and of llama.cpp's log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The files of an export and its verified difference from the checkpoint."""

    files: list[str]
    difference: float
    bound: float


def export_checkpoint(folder: Path, to: str, out: Path) -> ExportResult:
    """Write the export folder `out` and load it back. Raises SmalltaleError if it is not supported or differs."""
    started = time.monotonic()
    if to not in FORMATS:
        raise SmalltaleError(f"--to {to!r} is unknown; choose one of: {', '.join(FORMATS)}")
    with translate_os_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileProblem(f"{out} exists and is not empty; choose a new folder")
    checkpoint = load_checkpoint(folder)
    config = read_json(folder / "config.json")
    with atomic_folder(out) as temporary:
        if to == "gguf":
            write_gguf(checkpoint, temporary / "model.gguf", out.name)
        else:
            write_for_transformers(checkpoint, config, temporary)
        write_card(folder, checkpoint, temporary, out.name)
        difference = largest_difference(temporary, to, checkpoint.model)
        if not difference <= MAX_DIFFERENCE:
            raise SmalltaleError(
                f"the export's logits differ from the checkpoint's by {difference:.2e}, over the bound of "
                f"{MAX_DIFFERENCE:g}; {out} was not written, please report this"
            )
        run = strip_folders(checkpoint.meta)
        provenance = provenance_record(
            recipe=run.get("recipe"),
            inputs={"model": sha256_file(folder / "model.safetensors")},
            seconds=time.monotonic() - started,
        )
        details = {"kind": "export", "format": 1, "to": to, "largest_difference": difference, "run": run}
        write_json(temporary / "meta.json", {**provenance, **details})
    files = sorted(path.name for path in out.iterdir())
    return ExportResult(files=files, difference=difference, bound=MAX_DIFFERENCE)


def write_for_transformers(checkpoint: Checkpoint, config: dict[str, Any], out: Path) -> None:
    """Write model, its code, tokenizer, and the start and end tokens of generate()."""
    special_ids = {
        "bos_token_id": checkpoint.tokenizer.end_id,
        "eos_token_id": checkpoint.tokenizer.end_id,
        "pad_token_id": checkpoint.tokenizer.pad_id,
    }
    recorded = {key: config[key] for key in config if key in ("counted_parameters", "weight_class")}
    model = checkpoint.model
    write_model(out, model.config, model.state_dict(), {**recorded, **special_ids})
    write_json(out / "generation_config.json", special_ids)
    checkpoint.tokenizer.save(out)


@torch.no_grad()
def largest_difference(folder: Path, to: str, model: Transformer) -> float:
    """The largest difference on random ids between the export, loaded back, and the model."""
    shape = model.config
    generator = torch.Generator().manual_seed(0)
    if to == "gguf":
        lengths = sorted({1, 2, shape.context // 4 + 1, max(1, shape.context // 2)})
        prompts = [torch.randint(shape.vocabulary, (n,), generator=generator).tolist() for n in lengths]
        return largest_gguf_difference(folder / "model.gguf", model, prompts)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    log.info("loading the export in transformers")
    export: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    export.eval()
    ids = torch.randint(shape.vocabulary, (2, shape.context), generator=generator)
    return float((export(ids).logits.float() - model(ids)).abs().max())
