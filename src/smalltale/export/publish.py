"""A checkpoint made ready for others: a clean folder for transformers, a GGUF file, a model card.

In: a checkpoint folder. Out: an export folder, proven by loading it back.
Beware: the proof runs the modeling_smalltale.py that this smalltale wrote, never code that lay in the checkpoint.
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
from smalltale.files import explained, new_folder, provenance, read_json, sha256_of, write_json
from smalltale.model.serialization import write_model
from smalltale.model.transformer import Transformer
from smalltale.training.checkpoint import LoadedModel, load_model
from smalltale.training.run_record import without_folders

log = logging.getLogger(__name__)

FORMS = ("transformers", "gguf")
BOUND = 1e-4
"""The largest difference that passes, in float32: of logits, and of llama.cpp's log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An export and its proof."""

    files: list[str]
    difference: float
    bound: float


def export_checkpoint(checkpoint: Path, to: str, out: Path) -> Exported:
    """Write the export folder `out` and load it back. Raises SmalltaleError where it does not map or differs."""
    began = time.monotonic()
    if to not in FORMS:
        raise SmalltaleError(f"--to {to!r} is unknown; choose one of: {', '.join(FORMS)}")
    with explained(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileProblem(f"{out} exists and is not empty; choose a new folder")
    loaded = load_model(checkpoint)
    told = read_json(checkpoint / "config.json")
    with new_folder(out) as folder:
        if to == "gguf":
            write_gguf(loaded, folder / "model.gguf", out.name)
        else:
            write_for_transformers(loaded, told, folder)
        write_card(checkpoint, loaded, folder, out.name)
        difference = largest_difference(folder, to, loaded.model)
        if not difference <= BOUND:
            raise SmalltaleError(
                f"the export's logits differ from the checkpoint's by {difference:.2e}, over the bound of {BOUND:g}; "
                f"{out} was not written, please report this"
            )
        run = without_folders(loaded.meta)
        record = provenance(
            recipe=run.get("recipe"),
            inputs={"model": sha256_of(checkpoint / "model.safetensors")},
            seconds=time.monotonic() - began,
        )
        own = {"kind": "export", "format": 1, "to": to, "largest_difference": difference, "run": run}
        write_json(folder / "meta.json", {**record, **own})
    return Exported(files=sorted(each.name for each in out.iterdir()), difference=difference, bound=BOUND)


def write_for_transformers(loaded: LoadedModel, told: dict[str, Any], folder: Path) -> None:
    """Model, its code, tokenizer, and how generate() begins and ends a story."""
    ends = {
        "bos_token_id": loaded.tokenizer.end_id,
        "eos_token_id": loaded.tokenizer.end_id,
        "pad_token_id": loaded.tokenizer.pad_id,
    }
    counted: dict[str, Any] = {
        key: told[key] for key in ("counted_parameters", "weight_class") if key in told
    }
    write_model(folder, loaded.model.config, loaded.model.state_dict(), {**counted, **ends})
    write_json(folder / "generation_config.json", ends)
    loaded.tokenizer.save(folder)


@torch.no_grad()
def largest_difference(folder: Path, to: str, model: Transformer) -> float:
    """The largest difference on random ids between the export, loaded back, and the model."""
    shape = model.config
    chance = torch.Generator().manual_seed(0)
    if to == "gguf":
        lengths = sorted({1, 2, shape.context // 4 + 1, max(1, shape.context // 2)})
        prompts = [torch.randint(shape.vocabulary, (n,), generator=chance).tolist() for n in lengths]
        return largest_gguf_difference(folder / "model.gguf", model, prompts)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as their_logging

    their_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    log.info("opening the export in transformers")
    opened: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    opened.eval()
    ids = torch.randint(shape.vocabulary, (2, shape.context), generator=chance)
    return float((opened(ids).logits.float() - model(ids)).abs().max())
