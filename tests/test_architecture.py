"""The import rules of docs/architecture.md, checked on every import (relative and lazy ones too) and on planted violations."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "smalltale"

ORDER = (
    "errors",
    "machine",
    "rules",
    "files",
    "sandbox",
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
"""A package imports only packages before it."""
ALLOWED = {
    "errors": set(),
    "machine": set(),
    "files": {"errors"},
    "rules": {"errors"},
    "submission": {"rules", "files", "prompts", "text_signals", "errors"},
}
"""These packages import nothing else."""
ONLY_FOR_CLI = {"cli", "config", "progress", "demo", "doctor"}
TRAINS_AND_GENERATES = {
    "corpus", "tokens", "model", "counting", "training", "experiments", "export", "frameworks", "generation", "metrics",
}  # fmt: skip
NEVER_TRAINS = ("ranking", "judging", "server")
"""These packages import none of TRAINS_AND_GENERATES."""
MAY_PRINT = {"cli", "progress"}
WITHOUT_TORCH = (
    "smalltale.corpus.build",
    "smalltale.judging.judge",
    "smalltale.submission",
    "smalltale.ranking.standings",
    "smalltale.server.worker",
    "smalltale.server.web.app",
    "smalltale.cli",
)
MAX_FILES = 14
"""Most Python files in a folder of server/ and of counting/."""


def source_files(source: Path) -> list[Path]:
    """Every module; the templates are training scripts for other environments."""
    return [path for path in sorted(source.rglob("*.py")) if "templates" not in path.parts]


def module_name(path: Path, source: Path) -> str:
    parts = ["smalltale", *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path, source: Path) -> str:
    """The top-level package or module of a file."""
    return path.relative_to(source).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING"


def imported_names(path: Path, source: Path, *, with_type_checking: bool) -> Iterator[str]:
    """The dotted name of each module or attribute that a file imports anywhere in its code."""
    package = ["smalltale", *path.relative_to(source).parent.parts]
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif with_type_checking or not is_type_checking(node):
            nodes += ast.iter_child_nodes(node)


def imported_packages(path: Path, source: Path) -> set[str]:
    """The other top-level packages that a file imports."""
    names = imported_names(path, source, with_type_checking=True)
    packages = {name.split(".")[1] for name in names if name.startswith("smalltale.")}
    exist = {
        package for package in packages if (source / package).is_dir() or (source / f"{package}.py").exists()
    }
    return exist - {package_of(path, source)}


def find_violations(path: Path, source: Path) -> list[str]:
    """One sentence per import or call of a file that breaks a rule."""
    package, violations = package_of(path, source), []
    for imported in sorted(imported_packages(path, source)) if package not in {"cli", "__main__"} else []:
        statement = f"{path.name} in {package} imports {imported}"
        if imported in ONLY_FOR_CLI:
            violations.append(f"{statement}, which only cli may import")
        elif package in ALLOWED and imported not in ALLOWED[package]:
            violations.append(f"{statement}; it may import only {sorted(ALLOWED[package])}")
        elif package in NEVER_TRAINS and imported in TRAINS_AND_GENERATES:
            violations.append(f"{statement}; start it as a subprocess instead")
        elif package in ORDER and imported in ORDER and ORDER.index(imported) > ORDER.index(package):
            violations.append(f"{statement}, which comes after it")
    if package not in MAY_PRINT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                violations.append(f"{path.name}:{node.lineno} prints; log instead")
    return violations


def find_import_cycle(source: Path) -> list[str]:
    """The modules of one import cycle, lazy imports included; empty without a cycle."""
    path_by_module = {module_name(path, source): path for path in source_files(source)}
    graph: dict[str, set[str]] = {}
    for module, path in path_by_module.items():
        names = imported_names(path, source, with_type_checking=False)
        # `from package import name` imports the module package.name if there is one, else package.
        modules = {name if name in path_by_module else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in modules if name in path_by_module and name != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def find_crowded_folders(source: Path) -> list[str]:
    """The folders of server/ and counting/ with more than MAX_FILES modules."""
    folders = {path.parent for name in ("server", "counting") for path in (source / name).rglob("*.py")}
    return [str(folder) for folder in sorted(folders) if len(list(folder.glob("*.py"))) > MAX_FILES]


def imports_torch(module: str, *path: Path) -> bool:
    """Whether `import module`, with `path` in front of sys.path, imports torch."""
    code = f"import {module}, sys; sys.exit(42 if 'torch' in sys.modules else 0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    status = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment).returncode
    assert status in (0, 42), f"{module} cannot be imported"
    return status == 42


def test_imports_go_one_way_and_only_the_command_line_prints() -> None:
    assert [sentence for path in source_files(SOURCE) for sentence in find_violations(path, SOURCE)] == []


def test_every_package_has_its_rule() -> None:
    packages = {package_of(path, SOURCE) for path in source_files(SOURCE)}
    data = {"__init__", "__main__", "recipes", "rubrics"}
    assert packages - data == {*ORDER, *ONLY_FOR_CLI}


def test_no_modules_import_each_other_in_a_cycle() -> None:
    assert find_import_cycle(SOURCE) == []


def test_no_folder_of_server_and_counting_is_crowded() -> None:
    assert find_crowded_folders(SOURCE) == []


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_modules_without_models_never_import_torch(module: str) -> None:
    assert not imports_torch(module)


LAZY_MODEL = "def lazy():\n    from smalltale.model.transformer import Transformer\n"
PLANTED = [
    ("corpus/planted.py", "from smalltale.training import trainer\n", "comes after it"),
    ("tokens/planted.py", "from ..judging import judgement\n", "comes after it"),
    ("tokens/planted.py", "from .. import judging\n", "comes after it"),
    ("prompts.py", "import smalltale.corpus.build\n", "comes after it"),
    *((f"{name}/planted.py", "from smalltale import corpus\n", "may import only") for name in ALLOWED),
    *((f"{name}/planted.py", LAZY_MODEL, "subprocess") for name in NEVER_TRAINS),
    ("server/planted.py", "import smalltale.generation.generate\n", "subprocess"),
    *(
        ("training/planted.py", f"from smalltale.{name} import main\n", "only cli may import")
        for name in sorted(ONLY_FOR_CLI)
    ),
    ("model/planted.py", "print('loud')\n", "log instead"),
]


@pytest.fixture
def planted_source(tmp_path: Path) -> Path:
    """A source tree with every package and an empty module in each."""
    for name in {*ORDER, *ONLY_FOR_CLI}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize(("name", "text", "message"), PLANTED)
def test_a_planted_violation_is_found(planted_source: Path, name: str, text: str, message: str) -> None:
    planted = planted_source / name
    planted.write_text(text, encoding="utf-8")
    (violation,) = find_violations(planted, planted_source)
    assert message in violation


@pytest.mark.parametrize("name", ["cli/planted.py", "__main__.py"])
def test_the_command_line_may_import_everything(planted_source: Path, name: str) -> None:
    planted = planted_source / name
    planted.write_text(
        "from smalltale.training import launch\nfrom smalltale import config\n", encoding="utf-8"
    )
    assert find_violations(planted, planted_source) == []


@pytest.mark.parametrize(
    "text", ["from smalltale.corpus import first\n", "def lazy():\n    from .first import build\n"]
)
def test_a_planted_import_cycle_is_found(planted_source: Path, text: str) -> None:
    (planted_source / "corpus" / "first.py").write_text("import smalltale.corpus.second\n", encoding="utf-8")
    (planted_source / "corpus" / "second.py").write_text(text, encoding="utf-8")
    assert set(find_import_cycle(planted_source)) == {"smalltale.corpus.first", "smalltale.corpus.second"}


def test_an_import_for_type_checking_is_no_cycle(planted_source: Path) -> None:
    (planted_source / "corpus" / "first.py").write_text("import smalltale.corpus.second\n", encoding="utf-8")
    (planted_source / "corpus" / "second.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from smalltale.corpus.first import Corpus\n",
        encoding="utf-8",
    )
    assert find_import_cycle(planted_source) == []


@pytest.mark.parametrize("folder", ["counting", "server/web"])
def test_a_planted_crowded_folder_is_found(planted_source: Path, folder: str) -> None:
    (planted_source / folder).mkdir(exist_ok=True)
    for number in range(MAX_FILES + 1):
        (planted_source / folder / f"module_{number}.py").touch()
    assert find_crowded_folders(planted_source) == [str(planted_source / folder)]


def test_a_planted_import_of_torch_is_found(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()  # replaces the real one, which takes seconds to import
    (tmp_path / "heavy.py").write_text("import torch\n", encoding="utf-8")
    (tmp_path / "light.py").write_text("def lazy():\n    import torch\n", encoding="utf-8")
    assert imports_torch("heavy", tmp_path)
    assert not imports_torch("light", tmp_path)
