"""Checks a model in subprocesses with limits: its counted parameters, and whether it could have written the stories.

Input: a folder of the model's files, the declaration and the stories. Output: a VerificationResult.
Note: only MODEL_FILES are accepted, never a pickle. The subprocesses import nothing of the web server or the database.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smalltale.errors import SmalltaleError
from smalltale.files import write_json
from smalltale.sandbox import run_limited
from smalltale.submission import Completion, write_submission

WEIGHTS_FILE = "model.safetensors"
REQUIRED_FILES = (WEIGHTS_FILE, "config.json", "tokenizer.json")
MODEL_FILES = (
    *REQUIRED_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
"""The files that a model may consist of: weights in safetensors, and JSON."""
STORIES_TIMEOUT_SECONDS = 1800
STORIES_MEMORY_GIBIBYTES = 8
VERDICTS = {"pass": "verified", "fail": "contradicted", "unproven": "unproven"}


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """The verdict on a model: verified, contradicted or unproven, with its reasons."""

    verdict: str
    counted: int | None
    reasons: Sequence[str]
    stories: dict[str, Any] = field(default_factory=dict)
    """The JSON of `smalltale provenance` about the stories; empty if they were not checked."""


def check_model_folder(folder: Path) -> None:
    """Raise SmalltaleError if a required file is missing, or a link leads out of the folder."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise SmalltaleError(
            f"{folder} has no {' and no '.join(missing)}; choose a folder with {', '.join(REQUIRED_FILES)}"
        )
    links = [name for name in MODEL_FILES if (folder / name).is_symlink()]
    if links:
        raise SmalltaleError(
            f"{folder} contains links ({', '.join(links)}); replace the links with the files"
        )


def verify_model(
    folder: Path,
    claim: dict[str, Any],
    rules: str,
    *,
    frozen: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> VerificationResult:
    """Verify a claim under an edition's rules (TOML), as `smalltale count --verify` does, in one sandbox."""
    write_json(folder / "submission.json", claim)
    (folder / "rules.toml").write_text(rules, encoding="utf-8")
    request = {
        "submission": str(folder / "submission.json"),
        "model": str(folder),
        "frozen": list(frozen),
        "rules": str(folder / "rules.toml"),
    }
    try:
        output = run_limited(["-m", "smalltale.counting.verify", json.dumps(request)], stop=stop)
        answer = json.loads(output.splitlines()[-1])
        return VerificationResult(
            verdict=VERDICTS[answer["verdict"]], counted=answer["counted"], reasons=answer["reasons"]
        )
    except (ValueError, KeyError, TypeError):
        return VerificationResult(verdict="unproven", counted=None, reasons=["counting gave no verdict"])
    except SmalltaleError as error:
        return VerificationResult(verdict="unproven", counted=None, reasons=[f"counting {error}"])


def check_stories(
    folder: Path, completions: Sequence[Completion], sampling: str, *, stop: threading.Event | None = None
) -> dict[str, Any]:
    """The JSON of `smalltale provenance`: whether the folder's model could have written these completions."""
    path = folder / "stories" / "submission.jsonl"
    write_submission(path, completions, {})
    # With "=", settings that begin with a dash are not parsed as an option.
    arguments = ["provenance", str(folder), "--stories", str(path), f"--sampling={sampling}", "--json"]
    failure = "gave no verdict"
    try:
        output = run_limited(
            ["-m", "smalltale", *arguments],
            timeout_seconds=STORIES_TIMEOUT_SECONDS,
            memory_gibibytes=STORIES_MEMORY_GIBIBYTES,
            stop=stop,
        )
        answer = json.loads(output)
        if isinstance(answer, dict) and "verdict" in answer:
            return answer
    except ValueError:
        pass
    except SmalltaleError as error:
        failure = str(error)
    return {"verdict": "unproven", "reasons": [f"the check of the stories {failure}"]}
