"""Environments: each framework in one of its own, from a list of exact versions kept in the project.

In: a framework's name. Out: a virtual environment under the cache folder, and installed.json beside it.
Beware: packages are installed without their dependencies, for the list names all that is needed: what a framework
asks for and does not use (torchvision, spaCy, CUDA libraries) stays out. The core environment is never touched.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.files import explained, read_json, sha256_of, write_json
from smalltale.frameworks.framework import Framework

log = logging.getLogger(__name__)

CONSTRAINTS = Path(__file__).parent / "constraints"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A framework's environment on this machine."""

    python: Path
    version: str
    """The framework's own."""
    seconds: float
    megabytes: int
    current: bool
    """Whether it was made from the list as it is now."""


def cache_folder() -> Path:
    """Where environments are kept: $SMALLTALE_FRAMEWORKS, else the user's cache folder."""
    given = os.environ.get("SMALLTALE_FRAMEWORKS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "smalltale" / "frameworks"


def constraints_of(framework: Framework) -> Path:
    return CONSTRAINTS / f"{framework.name}.txt"


def pinned(path: Path) -> dict[str, str]:
    """Package and version of each line `name==version`."""
    found = re.findall(r"^([\w.\-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower(): version for name, version in found}


def version_of(framework: Framework) -> str:
    """The version that the list names."""
    if not constraints_of(framework).exists():
        return "ours"
    return pinned(constraints_of(framework))[framework.package] if framework.package else "checkout"


def environment(framework: Framework) -> Environment | None:
    """The framework's environment, None where it is not installed."""
    folder = cache_folder() / framework.name
    if not (folder / "installed.json").exists():
        return None
    told = read_json(folder / "installed.json")
    return Environment(
        python=folder / "env" / "bin" / "python",
        version=told["version"],
        seconds=told["seconds"],
        megabytes=told["megabytes"],
        current=told["constraints"] == sha256_of(constraints_of(framework)),
    )


def need_environment(framework: Framework) -> Environment:
    """The framework's environment. Raises SmalltaleError with the command that makes it."""
    found = environment(framework)
    if found is None:
        raise SmalltaleError(
            f"{framework.title} is not installed; run: smalltale frameworks install {framework.name}"
        )
    return found


def install(framework: Framework) -> Environment:
    """Make the environment anew. Raises SmalltaleError with pip's last words where it fails."""
    began = time.monotonic()
    constraints = constraints_of(framework)
    if not constraints.exists():
        raise SmalltaleError(
            f"{framework.title} needs no environment: its files are written by smalltale itself"
        )
    folder = cache_folder() / framework.name
    with explained(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        venv.create(folder / "env", with_pip=True, symlinks=True)
    python = folder / "env" / "bin" / "python"
    log.info("installing %s into %s", framework.title, folder)
    packages = constraints.read_text(encoding="utf-8")
    pip(python, ["--no-deps", "--requirement", str(constraints)], folder)
    write_json(
        folder / "installed.json",
        {
            "version": version_of(framework),
            "constraints": sha256_of(constraints),
            "packages": len(packages.splitlines()),
            "seconds": round(time.monotonic() - began, 1),
            "megabytes": sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
            // 1_000_000,
        },
    )
    made = environment(framework)
    assert made is not None
    return made


def pip(python: Path, arguments: list[str], folder: Path) -> None:
    """Run the environment's own pip. Raises SmalltaleError."""
    asked = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    ran = subprocess.run(asked, capture_output=True, text=True, check=False)
    (folder / "install.log").write_text(ran.stdout + ran.stderr, encoding="utf-8")
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if "ERROR" in line] or ran.stderr.splitlines()
        raise SmalltaleError(
            f"pip could not install it: {said[0] if said else 'no message'}; all it said is in {folder / 'install.log'}"
        )


def clean_environment(python: Path) -> dict[str, str]:
    """The variables for a process of a framework: no packages of ours, no network, no compiling, two threads."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return {
        **kept,
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
        # Compiling for a processor takes longer than the few steps that it would speed up.
        "TORCHDYNAMO_DISABLE": "1",
        # Threads that spin while they wait starve each other where the cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }
