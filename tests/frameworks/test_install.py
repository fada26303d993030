"""An environment of a framework's own, made from wheels of the test's own: nothing is downloaded."""

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
LIST = "# A framework that asks for a package which nobody has.\ntorch==9.9\nsmall-part==2.0\ntiny-trainer==1.0\n"


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A wheel with one empty module."""
    module = name.replace("-", "_")
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    told += "".join(f"Requires-Dist: {each}\n" for each in needs)
    place = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as out:
        out.writestr(f"{module}.py", "")
        out.writestr(f"{place}/METADATA", told)
        out.writestr(f"{place}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{place}/RECORD", "")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Framework:
    """A framework whose list and wheels are the test's own."""
    wheels, lists = tmp_path / "wheels", tmp_path / "lists"
    wheels.mkdir()
    lists.mkdir()
    # torch wants a part that the list pins, and one that the list does not know: it may bring both.
    wheel(wheels, "torch", "9.9", "small-part", "of-the-card")
    wheel(wheels, "of-the-card", "1.0")
    for version in ("2.0", "3.0"):
        wheel(wheels, "small-part", version)
    wheel(wheels, "tiny-trainer", "1.0", "torch", "nobody-has-this")
    (lists / "tiny.txt").write_text(LIST)
    monkeypatch.setattr(installing, "CONSTRAINTS", lists)
    monkeypatch.setenv("SMALLTALE_FRAMEWORKS", str(tmp_path / "made"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return TINY


def test_an_environment_holds_the_list_and_what_torch_wants_and_no_more(
    tiny: Framework, tmp_path: Path
) -> None:
    with pytest.raises(SmalltaleError, match="smalltale frameworks install tiny"):
        require_environment(tiny)
    made = install(tiny)
    assert made == find_environment(tiny) == require_environment(tiny)
    assert (made.version, made.current) == ("1.0", True)
    assert made.megabytes > 0
    asked = [made.python, "-m", "pip", "list", "--format=freeze"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    found = [each for each in found if not each.startswith(("pip==", "setuptools=="))]
    assert sorted(found) == ["of-the-card==1.0", "small-part==2.0", "tiny-trainer==1.0", "torch==9.9"]
    (tmp_path / "lists" / "tiny.txt").write_text(LIST + "# changed\n")
    again = find_environment(tiny)
    assert again is not None
    assert not again.current


def test_a_version_that_is_not_to_be_had_is_named_and_nothing_counts_as_installed(
    tiny: Framework, tmp_path: Path
) -> None:
    (tmp_path / "lists" / "tiny.txt").write_text(LIST.replace("tiny-trainer==1.0", "tiny-trainer==7.0"))
    with pytest.raises(SmalltaleError, match=r"tiny-trainer==7\.0") as told:
        install(tiny)
    assert "install.log" in str(told.value)
    assert find_environment(tiny) is None


def test_a_process_of_a_framework_sees_nothing_of_ours(
    tiny: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    made = installing.Environment(
        python=Path("/env/bin/python"), version="1", seconds=1, megabytes=1, current=True
    )
    found = environment_variables(made)
    assert found["PATH"].startswith("/env/bin:")
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & found.keys()


def test_a_checkout_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("each", all_frameworks(), ids=lambda each: each.name)
def test_every_list_names_one_exact_version_a_package_and_its_framework(each: Framework) -> None:
    path = installing.constraints_path(each)
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    versions = read_pins(path)
    assert len(versions) == len(lines)
    if each.package is not None:
        assert each.package in versions
    assert "torchvision" not in versions
