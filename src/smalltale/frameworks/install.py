"""Installs each framework into a virtual environment of its own, from a list of exact versions in the repository.

Input: a framework. Output: an environment under the cache folder, with installed.json next to it.
All packages but torch are installed without their dependencies, because the list names every package that is needed; what a
framework requires but does not use (torchvision, spaCy, a tracker) stays out. torch brings what its build requires: nothing on
a CPU build, the CUDA libraries on a GPU build. The core environment is never changed.
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
from smalltale.files import read_json, sha256_file, translate_os_errors, write_json
from smalltale.frameworks.framework import Framework

log = logging.getLogger(__name__)

CONSTRAINTS = Path(__file__).parent / "constraints"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A framework's environment on this machine."""

    python: Path
    version: str
    """The framework's version."""
    seconds: float
    megabytes: int
    current: bool
    """Whether it was installed from the current constraints."""


def cache_folder() -> Path:
    """The folder of all environments: $SMALLTALE_FRAMEWORKS, or the user's cache folder."""
    configured = os.environ.get("SMALLTALE_FRAMEWORKS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(configured) if configured else cache / "smalltale" / "frameworks"


def constraints_path(framework: Framework) -> Path:
    return CONSTRAINTS / f"{framework.name}.txt"


def read_pins(path: Path) -> dict[str, str]:
    """Versions by package name, from lines `name==version`."""
    pins = re.findall(r"^([\w.\-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower(): version for name, version in pins}


def pinned_version(framework: Framework) -> str:
    """The framework's pinned version, or "checkout"."""
    return read_pins(constraints_path(framework))[framework.package] if framework.package else "checkout"


def find_environment(framework: Framework) -> Environment | None:
    """The framework's installed environment, or None."""
    folder = cache_folder() / framework.name
    if not (folder / "installed.json").exists():
        return None
    record = read_json(folder / "installed.json")
    return Environment(
        python=folder / "env" / "bin" / "python",
        version=record["version"],
        seconds=record["seconds"],
        megabytes=record["megabytes"],
        current=record["constraints"] == sha256_file(constraints_path(framework)),
    )


def require_environment(framework: Framework) -> Environment:
    """The framework's environment. Raises SmalltaleError with the command that installs it."""
    environment = find_environment(framework)
    if environment is None:
        command = f"smalltale frameworks install {framework.name}"
        raise SmalltaleError(f"{framework.title} is not installed; run: {command}")
    return environment


def install(framework: Framework) -> Environment:
    """Install the environment from scratch. Raises SmalltaleError with pip's first error line."""
    began = time.monotonic()
    constraints = constraints_path(framework)
    folder = cache_folder() / framework.name
    with translate_os_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        venv.create(folder / "env", with_pip=True, symlinks=True)
    python = folder / "env" / "bin" / "python"
    log.info("installing %s into %s", framework.title, folder)
    versions = read_pins(constraints)
    if "torch" in versions:
        pip_install(python, ["--constraint", str(constraints), f"torch=={versions['torch']}"], folder)
    pip_install(python, ["--no-deps", "--requirement", str(constraints)], folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / "installed.json",
        {
            "version": pinned_version(framework),
            "constraints": sha256_file(constraints),
            "packages": len(versions),
            "seconds": round(time.monotonic() - began, 1),
            "megabytes": size // 1_000_000,
        },
    )
    return require_environment(framework)


def checkout_variable(framework: Framework) -> dict[str, str]:
    """{NAME: absolute path of the framework's checkout}, or {} for a package. Raises SmalltaleError if it is missing."""
    if framework.needs_checkout is None:
        return {}
    variable = framework.name.upper()
    checkout = os.environ.get(variable)
    if not checkout or not Path(checkout, "train.py").is_file():
        problem = f"{variable}={checkout} has no train.py" if checkout else f"{variable} is not set"
        raise SmalltaleError(
            f"{framework.title} runs from a checkout, and {problem}; "
            f"git clone {framework.needs_checkout} FOLDER, then set {variable}=FOLDER"
        )
    return {variable: str(Path(checkout).absolute())}


def pip_install(python: Path, arguments: list[str], folder: Path) -> None:
    """Run `pip install` in an environment. Raises SmalltaleError."""
    # --no-compile: byte-compiling all of torch takes longer than copying it; a run compiles the modules it imports.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    command = [str(python), "-m", "pip", "install", *options, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    with (folder / "install.log").open("a", encoding="utf-8") as log_file:
        log_file.write(completed.stdout + completed.stderr)
    if completed.returncode:
        lines = completed.stderr.splitlines()
        errors = [line for line in lines if "ERROR" in line] or lines
        raise SmalltaleError(
            f"pip install failed: {errors[0] if errors else 'no message'}; its full output is in {folder / 'install.log'}"
        )


def environment_variables(environment: Environment) -> dict[str, str]:
    """Variables for a framework's process: its environment first on PATH, no variable that leads to our packages."""
    ours = ("PYTHON", "VIRTUAL_ENV")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "PATH": f"{environment.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
