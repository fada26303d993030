"""The wheel, installed in a new environment, contains recipes, rubrics and templates."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from test_demo import tiny_demo

REPOSITORY = Path(__file__).parents[1]


def test_the_wheel_runs_a_tiny_demo_from_another_folder(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(REPOSITORY),
    ]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python3.*")) / "site-packages"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    installed = subprocess.run(install, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    # The dependencies are this environment's; smalltale itself is the wheel's.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    location = subprocess.run(
        [python, "-c", "import smalltale; print(smalltale.__file__)"], capture_output=True, text=True
    )
    assert str(environment) in location.stdout, location.stdout + location.stderr
    other_folder = tmp_path / "elsewhere"
    other_folder.mkdir()
    result = tiny_demo(other_folder, command=(str(environment / "bin" / "smalltale"),))
    assert result.returncode == 0, result.stderr
    assert (other_folder / "out" / "report.html").exists()
