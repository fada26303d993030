"""The package as others install it: recipes, rubrics and pages travel with it."""

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
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python3.*")) / "site-packages"
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
    where = subprocess.run(
        [python, "-c", "import smalltale; print(smalltale.__file__)"], capture_output=True, text=True
    )
    assert str(home) in where.stdout, where.stdout + where.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = tiny_demo(elsewhere, command=(str(home / "bin" / "smalltale"),))
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "out" / "report.html").exists()
