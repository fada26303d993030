"""The record of a benchmark run: figures with the machine, package versions, commit and date.

Every script ends with `write_record`: the result file, and the figures as one JSON line, the last line of standard output.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smalltale.files import git_commit
from smalltale.machine import usable_cores

RESULTS = Path(__file__).parents[1] / "results"
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Flags of /proc/cpuinfo that decide how fast a processor multiplies matrices."""


def describe_machine() -> dict[str, Any]:
    """Processor, its matrix instructions, usable cores, system and Python version."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def provenance(packages: Sequence[str], commit: str | None = None) -> dict[str, Any]:
    """Where, when and with which versions a benchmark ran."""
    return {
        "machine": describe_machine(),
        "versions": package_versions(packages),
        "commit": commit or git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_record(path: Path | None, figures: dict[str, Any], summary: dict[str, Any] | None = None) -> None:
    """Write `figures` to `path`, if there is one, and print `summary` (default: the figures) as one JSON line."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures if summary is None else summary), flush=True)


def add_record_arguments(parser: argparse.ArgumentParser, default_out: Path | None = None) -> None:
    """Add --quick, --commit and --out, which all scripts share."""
    parser.add_argument("--quick", action="store_true", help="a short run, under a minute")
    parser.add_argument("--commit", default=git_commit(), help="commit to record if there is no git")
    parser.add_argument("--out", type=Path, default=default_out, help="the result file")
