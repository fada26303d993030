"""Read files with clear errors and write them atomically.

Input: paths from a user. Output: text, JSON, hashes, and the provenance record of an artefact's meta.json.
Pitfall: a file of `atomic_file` or folder of `atomic_folder` has its final name only after the block ends without an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smalltale import __version__
from smalltale.errors import FileProblem

END_OF_STORY = "<|endoftext|>"
"""Separator of stories in text files, as in the TinyStories files."""


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError on `path` into a FileProblem that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileProblem(f"{path} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise FileProblem(f"{path} is a folder, but a file is needed; name a file inside it") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise FileProblem(f"{path} is a file where a folder is needed; choose another folder") from error
    except PermissionError as error:
        raise FileProblem(
            f"{path} may not be read or written by this user; change its permissions or choose another path"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileProblem(f"{path}: {reason}; free some space or choose another path") from error


def read_text(path: Path) -> str:
    """The text of a non-empty UTF-8 file. Raises FileProblem for any other."""
    with translate_os_errors(path):
        raw = path.read_bytes()
    if not raw.strip():
        raise FileProblem(f"{path} is empty; give a file with text")
    if b"\x00" in raw[:65536]:
        raise FileProblem(f"{path} is a binary file (it has NUL bytes); give a text file in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise FileProblem(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at line {line}; "
            f"convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def read_stories(path: Path) -> list[str]:
    """The stories of a text file: the text between end-of-story marks, stripped."""
    stories = [story.strip() for story in read_text(path).split(END_OF_STORY)]
    stories = [story for story in stories if story]
    if not stories:
        raise FileProblem(f"{path} has no story; separate stories with {END_OF_STORY}")
    return stories


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises FileProblem if it is missing or cut short."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        location = f"line {error.lineno}: {error.msg}"
        raise FileProblem(f"{path} is not valid JSON ({location}); create it again") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_jsonl(path: Path) -> list[Any]:
    """The value of each line. Raises FileProblem with the line number of an invalid line."""
    values = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                problem = f"{path} line {number} is not JSON ({error.msg})"
                raise FileProblem(f"{problem}; correct or remove the line") from error
    return values


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for value in values:
            out.write(json.dumps(value, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`: renamed to `path` when the block succeeds, removed when it raises."""
    with translate_os_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with translate_os_errors(path):
            yield temporary
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`: it replaces `path` when the block succeeds and is removed when it raises.

    Only an empty folder or one that smalltale wrote (it has a meta.json) is replaced.
    """
    refuse_foreign_folder(path)
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with translate_os_errors(path):
            temporary.chmod(0o755)
            yield temporary
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
                path.replace(old / path.name)
                temporary.replace(path)
                shutil.rmtree(old)
            else:
                temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_foreign_folder(path: Path) -> None:
    """Raise FileProblem if `path` is a file, or a folder with content that smalltale did not write."""
    with translate_os_errors(path):
        is_ours = path.is_dir() and ((path / "meta.json").exists() or not any(path.iterdir()))
        if path.exists() and not is_ours:
            raise FileProblem(f"{path} exists and was not written by smalltale; choose a new or empty folder")


def find_packaged_file(module: str, pattern: str) -> Path | None:
    """The first file of an installed package that matches `pattern`; the package is not imported."""
    spec = find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    return None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with translate_os_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance_record(
    *,
    recipe: Any = None,
    inputs: dict[str, str] | None = None,
    counts: dict[str, int] | None = None,
    seconds: float,
) -> dict[str, Any]:
    """The part of meta.json that every artefact has: recipe, version, commit, input hashes, counts, duration."""
    return {
        "recipe": recipe,
        "smalltale_version": __version__,
        "git_commit": git_commit(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": inputs or {},
        "counts": counts or {},
        "seconds": round(seconds, 3),
    }


@cache
def git_commit() -> str | None:
    """The commit of this checkout; None for an installed package."""
    try:
        completed = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None
