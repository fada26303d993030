"""Environments: each framework in one of its own, from a list of exact versions kept in the project.

In: a framework's name. Out: a virtual environment under the cache folder, and installed.json beside it.
Beware: all but torch is installed without its dependencies, for the list names what is needed: what a framework asks for
and does not use (torchvision, spaCy, a tracker) stays out. torch alone brings what its own build wants: nothing for a
processor, CUDA's libraries from an index whose build is for GPUs. The core environment is never touched.
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
    folder = cache_folder() / framework.name
    with explained(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        venv.create(folder / "env", with_pip=True, symlinks=True)
    python = folder / "env" / "bin" / "python"
    log.info("installing %s into %s", framework.title, folder)
    versions = pinned(constraints)
    if "torch" in versions:
        pip(python, ["--constraint", str(constraints), f"torch=={versions['torch']}"], folder)
    pip(python, ["--no-deps", "--requirement", str(constraints)], folder)
    write_json(
        folder / "installed.json",
        {
            "version": version_of(framework),
            "constraints": sha256_of(constraints),
            "packages": len(versions),
            "seconds": round(time.monotonic() - began, 1),
            "megabytes": sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
            // 1_000_000,
        },
    )
    made = environment(framework)
    assert made is not None
    return made


def checkout_variable(framework: Framework) -> dict[str, str]:
    """$NAME with the absolute place of the framework's checkout, {} for a package. Raises SmalltaleError where it has none."""
    if framework.needs_checkout is None:
        return {}
    variable = framework.name.upper()
    given = os.environ.get(variable)
    if not given or not Path(given, "train.py").is_file():
        found = f"{variable}={given} has no train.py" if given else f"{variable} is not set"
        raise SmalltaleError(
            f"{framework.title} is no package, it runs from a checkout, and {found}; "
            f"git clone {framework.needs_checkout} FOLDER, then set {variable}=FOLDER"
        )
    return {variable: str(Path(given).absolute())}


def pip(python: Path, arguments: list[str], folder: Path) -> None:
    """Run the environment's own pip. Raises SmalltaleError."""
    # A run compiles the few modules that it imports; compiling all of torch takes longer than copying it.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    asked = [str(python), "-m", "pip", "install", *options, *arguments]
    ran = subprocess.run(asked, capture_output=True, text=True, check=False)
    with (folder / "install.log").open("a", encoding="utf-8") as kept:
        kept.write(ran.stdout + ran.stderr)
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if "ERROR" in line] or ran.stderr.splitlines()
        raise SmalltaleError(
            f"pip could not install it: {said[0] if said else 'no message'}; all it said is in {folder / 'install.log'}"
        )


def own_variables(made: Environment) -> dict[str, str]:
    """The variables for a process of a framework: its environment's programs first, nothing that leads to our packages."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return {**kept, "PATH": f"{made.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
