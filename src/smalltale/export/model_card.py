"""Writes a model card from the run's own records, and uploads an export to the Hugging Face Hub.

Input: a checkpoint folder, an export folder. Output: its README.md; a repository on the Hub.
Note: the card contains only what the records contain; a missing fact is shown as not recorded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, SmalltaleError, first_line
from smalltale.files import read_json, sha256_file
from smalltale.training.checkpoint import Checkpoint
from smalltale.training.metrics_file import METRICS_NAME, read_rows
from smalltale.training.run_record import strip_folders

UNKNOWN = "not recorded"


def write_card(folder: Path, checkpoint: Checkpoint, out: Path, name: str) -> None:
    """Write README.md into the export folder `out`; `folder` is the checkpoint's."""
    (out / "README.md").write_text(render_card(folder, checkpoint, name), encoding="utf-8")


def render_card(folder: Path, checkpoint: Checkpoint, name: str) -> str:
    """The model card in Markdown, with the Hub's metadata as front matter."""
    meta, config = strip_folders(checkpoint.meta), read_json(folder / "config.json")
    hardware, counts = get_table(meta, "hardware"), get_table(meta, "counts")
    corpus, seconds = get_table(get_table(meta, "recipe"), "corpus"), meta.get("seconds")
    facts = {
        "Counted parameters": format_integer(config.get("counted_parameters")),
        "Weight class": config.get("weight_class"),
        "Shape": ", ".join(f"{key} {value}" for key, value in asdict(checkpoint.model.config).items()),
        "Data sources, by the recipe": ", ".join(corpus.get("sources", [])),
        "Data sources, as read (SHA-256)": format_hashes(get_table(meta, "sources")),
        "Weights before the first step (SHA-256)": f"`{meta['first_weights']}`"
        if "first_weights" in meta
        else None,
        "Hashes of the inputs": format_hashes(get_table(meta, "inputs")),
        "Tokenizer hash": f"`{checkpoint.tokenizer.hash}`",
        "Weights (SHA-256 of the checkpoint's model.safetensors)": f"`{sha256_file(folder / 'model.safetensors')}`",
        "Hardware": ", ".join(str(value) for value in hardware.values()),
        "Steps": format_integer(counts.get("steps")),
        "Tokens trained on": format_integer(counts.get("tokens")),
        "Training time": f"{seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else None,
        "Bits per byte on held-out stories": last_bits_per_byte(folder),
        "Trained from scratch": "yes, as the run recorded" if meta.get("trained_from_scratch") else None,
        "Finished": {True: "yes", False: "no, the run was stopped"}.get(meta.get("finished")),  # type: ignore[arg-type]
        "Versions": f"smalltale {meta.get('smalltale_version', UNKNOWN)}, commit {meta.get('git_commit') or UNKNOWN}, "
        f"torch {meta.get('torch', UNKNOWN)}",
    }
    table = "\n".join(f"| {label} | {fact or UNKNOWN} |" for label, fact in facts.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [smalltale, tinystories]
---

# {name}

A small story model, pretrained from scratch with smalltale. This card is generated from the records of its training run.

| | |
| --- | --- |
{table}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}")
ids = tokenizer(tokenizer.bos_token + "Once upon a time", return_tensors="pt")["input_ids"]
print(tokenizer.decode(model.generate(ids, max_new_tokens=200, do_sample=True)[0], skip_special_tokens=True))
```

In training every story follows an end-of-story token, so the prompt must start with one.
"""


def get_table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """table[key], empty if it is not a table."""
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def format_integer(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def format_hashes(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} `{file_hash}`" for name, file_hash in hashes.items())


def last_bits_per_byte(folder: Path) -> str | None:
    """The run's last evaluation."""
    path = folder / METRICS_NAME
    if not path.exists():
        return None
    bits_per_byte = [row["bits_per_byte"] for row in read_rows(path)[0] if "bits_per_byte" in row]
    return f"{bits_per_byte[-1]:.4f}" if bits_per_byte else None


def push_to_hub(folder: Path, repository: str, *, private: bool) -> str:
    """Upload an export folder to a model repository, created if it is new. Returns its URL. Raises SmalltaleError."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise SmalltaleError(f"no token to push {repository}; set HF_TOKEN, or log in with: hf auth login")
    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        url = api.create_repo(repository, exist_ok=True, private=private)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A checkpoint of smalltale")
    except (HFValidationError, HfHubHTTPError) as error:
        raise SmalltaleError(
            f"{repository} cannot be pushed ({first_line(error)}); check its name (OWNER/NAME) and that the token may write"
        ) from error
    except (OSError, RuntimeError) as error:
        raise FileProblem(f"pushing to {repository} failed ({error}); check the network and retry") from error
    return str(url)
