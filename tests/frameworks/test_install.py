"""Framework environments, installed from wheels that the tests build: nothing is downloaded."""

from __future__ import annotations

import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from smalltale.errors import SmalltaleError
from smalltale.frameworks import install as installing
from smalltale.frameworks.framework import Framework, all_frameworks, get_framework
from smalltale.frameworks.install import (
    checkout_variable,
    environment_variables,
    find_environment,
    install,
    read_pins,
    require_environment,
)

TINY = replace(get_framework("fastai"), name="tiny", package="tiny-trainer")
CONSTRAINTS = "# A framework that requires a package that does not exist.\ntorch==9.9\nsmall-part==2.0\ntiny-trainer==1.0\n"


def build_wheel(folder: Path, name: str, version: str, *requirements: str) -> None:
    """Write a wheel with one empty module."""
    module = name.replace("-", "_")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    dist_info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as out:
        out.writestr(f"{module}.py", "")
        out.writestr(f"{dist_info}/METADATA", metadata)
        out.writestr(f"{dist_info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{dist_info}/RECORD", "")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Framework:
    """A framework with constraints and wheels made by the test."""
    wheels, constraints = tmp_path / "wheels", tmp_path / "constraints"
    wheels.mkdir()
    constraints.mkdir()
    # torch requires a pinned package and one that is not pinned: it may install both.
    build_wheel(wheels, "torch", "9.9", "small-part", "gpu-library")
    build_wheel(wheels, "gpu-library", "1.0")
    for version in ("2.0", "3.0"):
        build_wheel(wheels, "small-part", version)
    build_wheel(wheels, "tiny-trainer", "1.0", "torch", "does-not-exist")
    (constraints / "tiny.txt").write_text(CONSTRAINTS)
    monkeypatch.setattr(installing, "CONSTRAINTS", constraints)
    monkeypatch.setenv("SMALLTALE_FRAMEWORKS", str(tmp_path / "made"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return TINY


def test_an_environment_has_only_the_pinned_packages_and_the_requirements_of_torch(
    tiny: Framework, tmp_path: Path
) -> None:
    with pytest.raises(SmalltaleError, match="smalltale frameworks install tiny"):
        require_environment(tiny)
    environment = install(tiny)
    assert environment == find_environment(tiny) == require_environment(tiny)
    assert (environment.version, environment.current) == ("1.0", True)
    assert environment.megabytes > 0
    command = [environment.python, "-m", "pip", "list", "--format=freeze"]
    packages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    packages = [package for package in packages if not package.startswith(("pip==", "setuptools=="))]
    assert sorted(packages) == ["gpu-library==1.0", "small-part==2.0", "tiny-trainer==1.0", "torch==9.9"]
    (tmp_path / "constraints" / "tiny.txt").write_text(CONSTRAINTS + "# changed\n")
    outdated = find_environment(tiny)
    assert outdated is not None
    assert not outdated.current


def test_a_version_that_does_not_exist_is_named_and_nothing_counts_as_installed(
    tiny: Framework, tmp_path: Path
) -> None:
    (tmp_path / "constraints" / "tiny.txt").write_text(
        CONSTRAINTS.replace("tiny-trainer==1.0", "tiny-trainer==7.0")
    )
    with pytest.raises(SmalltaleError, match=r"tiny-trainer==7\.0") as error:
        install(tiny)
    assert "install.log" in str(error.value)
    assert find_environment(tiny) is None


def test_a_framework_process_sees_none_of_our_packages(
    tiny: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    environment = installing.Environment(
        python=Path("/env/bin/python"), version="1", seconds=1, megabytes=1, current=True
    )
    variables = environment_variables(environment)
    assert variables["PATH"].startswith("/env/bin:")
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & variables.keys()


def test_a_missing_checkout_is_reported_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nanogpt = get_framework("nanogpt")
    monkeypatch.delenv("NANOGPT", raising=False)
    with pytest.raises(SmalltaleError, match=r"NANOGPT is not set; git clone \S+nanoGPT FOLDER"):
        checkout_variable(nanogpt)
    monkeypatch.setenv("NANOGPT", str(tmp_path))
    with pytest.raises(SmalltaleError, match=r"has no train\.py"):
        checkout_variable(nanogpt)
    (tmp_path / "train.py").touch()
    assert checkout_variable(nanogpt) == {"NANOGPT": str(tmp_path)}
    assert checkout_variable(get_framework("trainer")) == {}


@pytest.mark.parametrize("framework", all_frameworks(), ids=lambda framework: framework.name)
def test_constraints_have_one_exact_version_per_package_and_name_the_framework(framework: Framework) -> None:
    path = installing.constraints_path(framework)
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    versions = read_pins(path)
    assert len(versions) == len(lines)
    if framework.package is not None:
        assert framework.package in versions
    assert "torchvision" not in versions
