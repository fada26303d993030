"""A model card from the run's own records, and the way to the Hub.

In: a checkpoint folder, an export folder. Out: README.md in it; a repository on the Hub.
Beware: the card says nothing that the records do not; what a record lacks is named as not recorded.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json, sha256_of
from smalltale.training.checkpoint import LoadedModel
from smalltale.training.metrics_file import rows_of
from smalltale.training.run_record import without_folders

UNKNOWN = "not recorded"


def write_card(checkpoint: Path, loaded: LoadedModel, folder: Path, name: str) -> None:
    """Write README.md into the folder."""
    (folder / "README.md").write_text(card(checkpoint, loaded, name), encoding="utf-8")


def card(checkpoint: Path, loaded: LoadedModel, name: str) -> str:
    """The model card in Markdown, with the Hub's table at its top."""
    meta, told = without_folders(loaded.meta), read_json(checkpoint / "config.json")
    hardware, counts, data = (
        table_at(meta, *keys) for keys in (("hardware",), ("counts",), ("recipe", "corpus"))
    )
    sources, inputs, seconds = table_at(meta, "sources"), table_at(meta, "inputs"), meta.get("seconds")
    rows = {
        "Counted parameters": number(told.get("counted_parameters")),
        "Weight class": told.get("weight_class"),
        "Shape": ", ".join(f"{key} {value}" for key, value in asdict(loaded.model.config).items()),
        "Data sources, by the recipe": ", ".join(data.get("sources", [])) or None,
        "Data sources, as read (SHA-256)": ", ".join(f"{key} `{each}`" for key, each in sources.items())
        or None,
        "Weights before the first step (SHA-256)": f"`{meta['first_weights']}`"
        if "first_weights" in meta
        else None,
        "Hashes of what went in": ", ".join(f"{key} `{each}`" for key, each in inputs.items()) or None,
        "Tokenizer hash": f"`{loaded.tokenizer.hash}`",
        "Weights (SHA-256 of the checkpoint's model.safetensors)": f"`{sha256_of(checkpoint / 'model.safetensors')}`",
        "Hardware": ", ".join(str(each) for each in hardware.values()) or None,
        "Steps": number(counts.get("steps")),
        "Tokens trained on": number(counts.get("tokens")),
        "Training time": f"{seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else None,
        "Bits per byte on held-out stories": bits_of(checkpoint),
        "Trained from scratch": "yes, as the run recorded" if meta.get("trained_from_scratch") else None,
        "Finished": {True: "yes", False: "no, the run was stopped"}.get(meta.get("finished")),  # type: ignore[arg-type]
        "Versions": f"smalltale {meta.get('smalltale_version', UNKNOWN)}, commit {meta.get('git_commit') or UNKNOWN}, "
        f"torch {meta.get('torch', UNKNOWN)}",
    }
    table = "\n".join(f"| {key} | {value or UNKNOWN} |" for key, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [smalltale, tinystories]
---

# {name}

A small storyteller, pretrained from scratch with smalltale. This card is written from the run's own records.

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

A story is read from the end-of-story token on, which is why it stands before the prompt.
"""


def table_at(meta: Any, *keys: str) -> dict[str, Any]:
    """meta[key][key]…, empty where the record has no such table."""
    for key in keys:
        meta = meta.get(key) if isinstance(meta, dict) else None
    return meta if isinstance(meta, dict) else {}


def number(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def bits_of(checkpoint: Path) -> str | None:
    """The last measured bits per byte of the run."""
    path = checkpoint / "metrics.jsonl"
    if not path.exists():
        return None
    measured = [row["bits_per_byte"] for row in rows_of(path)[0] if "bits_per_byte" in row]
    return f"{measured[-1]:.4f}" if measured else None


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Put an export folder into a model repository, made where it is new. Returns its address. Raises SmalltaleError."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise SmalltaleError(
            f"there is no token of the Hub to push {repository} with; set HF_TOKEN, or log in with: hf auth login"
        )
    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        address = api.create_repo(repository, exist_ok=True, private=private)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A checkpoint of smalltale")
    except (HFValidationError, HfHubHTTPError) as error:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise SmalltaleError(
            f"{repository} cannot be pushed ({first}); check its name (OWNER/NAME) and the token's right to write"
        ) from error
    except (OSError, RuntimeError) as error:
        raise FileProblem(
            f"the push to {repository} broke off ({error}); check the network, then push again"
        ) from error
    return str(address)
