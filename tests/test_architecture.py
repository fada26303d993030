"""The rules of the house (docs/architecture.md), read off every import, also relative and lazy ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "smalltale"

ORDER = (
    "errors",
    "machine",
    "sandbox",
    "rules",
    "files",
    "journal",
    "prompts",
    "text_signals",
    "corpus",
    "tokens",
    "model",
    "counting",
    "training",
    "experiments",
    "export",
    "frameworks",
    "submission",
    "generation",
    "metrics",
    "ranking",
    "judging",
    "server",
)
"""Rule 1: a stage imports only stages left of it."""
ONLY_THESE = {
    "errors": set(),
    "files": {"errors"},
    "journal": {"errors", "files"},
    "rules": {"errors"},
    "submission": {"rules", "files", "prompts", "text_signals", "errors"},
}
FRAME = {"config", "progress", "demo", "doctor"}
"""Only cli imports these."""
TRAINS_AND_GENERATES = {
    "corpus", "tokens", "model", "counting", "training", "experiments", "export", "frameworks", "generation", "metrics",
}  # fmt: skip
NEVER_REACHED_FROM = dict.fromkeys(("ranking", "judging", "server"), TRAINS_AND_GENERATES)
MAY_PRINT = {"cli", "progress"}


def room_of(path: Path) -> str:
    """The stage a file stands in: its folder, or its own name at the top level."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The smalltale rooms that a file imports anywhere in its text, its own left out."""
    package = ["smalltale", *path.relative_to(SOURCE).parent.parts]
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    rooms = {name.split(".")[1] for name in names if name.startswith("smalltale.")}
    return {room for room in rooms if (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").exists()} - {
        room_of(path)
    }


def broken_rules(path: Path) -> list[str]:
    """What a file's imports and calls break, one sentence each."""
    room, found = room_of(path), []
    for other in sorted(imported_rooms(path)):
        if room in {"cli", "__main__"}:
            continue
        if other == "cli" or other in FRAME:
            found.append(f"{path.name} in {room} imports {other}, which only cli may")
        elif room in ONLY_THESE and other not in ONLY_THESE[room]:
            found.append(
                f"{path.name} in {room} imports {other}; it may import only {sorted(ONLY_THESE[room])}"
            )
        elif room in NEVER_REACHED_FROM and other in NEVER_REACHED_FROM[room]:
            found.append(f"{path.name} in {room} imports {other}; start it as a subprocess instead")
        elif room in ORDER and other in ORDER and ORDER.index(other) > ORDER.index(room):
            found.append(f"{path.name} in {room} imports {other}, which stands right of it")
    if room not in MAY_PRINT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path.name}:{node.lineno} prints; log instead")
    return found


def every_file() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if "templates" not in path.parts]


def test_data_flows_one_way_and_only_the_command_line_prints() -> None:
    assert [rule for path in every_file() for rule in broken_rules(path)] == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("corpus/planted.py", "from smalltale.training import trainer\n"),
        ("judging/planted.py", "def lazy():\n    from smalltale.model.transformer import Transformer\n"),
        ("server/planted.py", "import smalltale.generation.generate\n"),
        ("tokens/planted.py", "from ..judging import judgement\n"),
        ("tokens/planted.py", "from .. import judging\n"),
        ("submission/planted.py", "from smalltale import corpus\n"),
        ("training/planted.py", "from smalltale.progress import set_up_logging\n"),
        ("model/planted.py", "print('loud')\n"),
    ],
)
def test_a_planted_wrong_import_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str
) -> None:
    for room in ORDER:
        (tmp_path / room).mkdir()
    (tmp_path / "progress.py").touch()
    planted = tmp_path / place
    planted.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    assert len(broken_rules(planted)) == 1


@pytest.mark.parametrize(
    "light",
    [
        "smalltale.corpus.build",
        "smalltale.judging.judge",
        "smalltale.submission",
        "smalltale.ranking.standings",
        "smalltale.cli",
    ],
)
def test_a_light_stage_never_imports_torch(light: str) -> None:
    code = f"import {light}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
