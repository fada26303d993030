"""The last proof of each framework, kept in the repository as records/NAME.json. A proof is a real run (proving.py).

A record has the hashes of the module, recipe files and constraints that were used. When they change, the record is stale:
the table shows it, and nothing fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from smalltale.files import read_json, write_json
from smalltale.frameworks.exporting import TEMPLATES
from smalltale.frameworks.framework import Framework
from smalltale.frameworks.install import constraints_path

RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The result of proving one framework."""

    name: str
    passed: bool
    message: str
    proven_at: str
    version: str
    module_hash: str
    constraints_hash: str
    machine: str
    seconds: float | None = None
    """Duration of the proof, including installation if there was one; None in records older than 2026-11-26."""
    install_seconds: float | None = None
    install_megabytes: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def source_hashes(framework: Framework) -> tuple[str, str]:
    """SHA-256 of the framework's module, recipe files and shared scripts, and SHA-256 of its constraints."""
    module = Path(__file__).parent / f"{framework.name}.py"
    recipes = sorted(path for path in (TEMPLATES / framework.name).iterdir() if path.is_file())
    shared = sorted((TEMPLATES / "shared").glob("*.py"))
    module_hash = sha256(b"".join(path.read_bytes() for path in [module, *recipes, *shared])).hexdigest()
    constraints = constraints_path(framework)
    return module_hash, sha256(constraints.read_bytes() if constraints.exists() else b"").hexdigest()


def write_record(proof: Proof) -> None:
    """Write the proof as the framework's record."""
    write_json(RECORDS / f"{proof.name}.json", asdict(proof))


def read_record(framework: Framework) -> Proof | None:
    """The framework's recorded proof, if any."""
    path = RECORDS / f"{framework.name}.json"
    return Proof(**read_json(path)) if path.exists() else None


def is_stale(framework: Framework, proof: Proof) -> bool:
    """Whether the framework's files changed since the proof."""
    return source_hashes(framework) != (proof.module_hash, proof.constraints_hash)


def figures_table(frameworks: Iterable[Framework]) -> str:
    """The recorded figures as a Markdown table, one line per framework."""
    lines = [
        "| | version | install | tokens/s | ours | loss | logits differ by | bits/byte | proof | day |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for framework in frameworks:
        proof = read_record(framework)
        if proof is not None:
            lines.append(figures_line(framework, proof))
    return "\n".join(lines)


def figures_line(framework: Framework, proof: Proof) -> str:
    """One line of the table; cells that the proof did not reach are empty."""
    figures = format_figures(proof.figures)
    installed = proof.install_seconds and f"{proof.install_megabytes:,} MB, {proof.install_seconds:.0f} s"
    cells = [
        framework.title,
        proof.version,
        installed or "",
        figures["tokens_per_second"],
        figures["own_tokens_per_second"],
        figures["losses"],
        figures["largest_logit_difference"],
        figures["bits_per_byte"],
        f"FAILED: {proof.message}" if not proof.passed else f"{proof.seconds:.0f} s" if proof.seconds else "",
        proof.proven_at[:10],
    ]
    return f"| {' | '.join(cells)} |"


def format_figures(figures: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a proof as text for tables; empty where the proof ended before measuring one."""
    formats = {
        "tokens_per_second": ",.0f",
        "own_tokens_per_second": ",.0f",
        "largest_logit_difference": ".1e",
        "counted_parameters": ",",
        "bits_per_byte": ".3f",
    }
    measured = {name: figures[name] for name in formats if figures.get(name) is not None}
    texts = {name: format(measured[name], spec) if name in measured else "" for name, spec in formats.items()}
    losses = [f"{figures[name]:.2f}" for name in ("first_losses", "last_losses") if name in figures]
    return {**texts, "losses": " → ".join(losses)}
