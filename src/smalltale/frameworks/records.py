"""What was last proven of each framework, kept in the project as records/NAME.json.

In: a Proof. Out: its record, whether it is stale, and all records' figures as a table.
Beware: a record names the hashes of what it proved; one that no longer fits is stale, which is shown and fails nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from smalltale.files import read_json, write_json
from smalltale.frameworks.exporting import TEMPLATES
from smalltale.frameworks.framework import MODULES, Framework
from smalltale.frameworks.install import constraints_of

RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a run showed."""

    name: str
    passed: bool
    message: str
    proven_at: str
    version: str
    module_hash: str
    constraints_hash: str
    machine: str
    seconds: float | None = None
    """The whole proof, with the environment's making where it was made; None in records of before 26 November 2026."""
    install_seconds: float | None = None
    install_megabytes: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def hashes_of(framework: Framework) -> tuple[str, str]:
    """SHA-256 of the framework's module with its recipe files and the shared scripts, and of its list of versions."""
    module = Path(__file__).parent / f"{MODULES[framework.name]}.py"
    recipes = sorted(each for each in (TEMPLATES / framework.name).iterdir() if each.is_file())
    shared = sorted((TEMPLATES / "shared").glob("*.py"))
    told = sha256(b"".join(path.read_bytes() for path in [module, *recipes, *shared])).hexdigest()
    constraints = constraints_of(framework)
    return told, sha256(constraints.read_bytes() if constraints.exists() else b"").hexdigest()


def keep_record(proof: Proof) -> None:
    """Make it the row's last recorded proof."""
    write_json(RECORDS / f"{proof.name}.json", asdict(proof))


def record_of(framework: Framework) -> Proof | None:
    """The last recorded proof."""
    path = RECORDS / f"{framework.name}.json"
    return Proof(**read_json(path)) if path.exists() else None


def is_stale(framework: Framework, proof: Proof) -> bool:
    """Whether the row has changed since it was proven."""
    return hashes_of(framework) != (proof.module_hash, proof.constraints_hash)


def figures_table(frameworks: Iterable[Framework]) -> str:
    """The records' figures as a Markdown table, a line a framework."""
    lines = [
        "| | version | install | tokens/s | ours | loss | logits differ by | bits/byte | proof | day |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in frameworks:
        proof = record_of(each)
        if proof is not None:
            lines.append(figures_line(each, proof))
    return "\n".join(lines)


def figures_line(framework: Framework, proof: Proof) -> str:
    """One line of the table; what a proof did not reach is empty."""
    told = proof.figures
    installed = proof.install_seconds and f"{proof.install_megabytes:,} MB, {proof.install_seconds:.0f} s"
    cells = [
        framework.title,
        proof.version,
        installed or "",
        f"{told['tokens_per_second']:,.0f}" if told.get("tokens_per_second") else "",
        f"{told['own_tokens_per_second']:,.0f}" if "own_tokens_per_second" in told else "",
        f"{told['first_losses']:.2f} → {told['last_losses']:.2f}" if "last_losses" in told else "",
        f"{told['largest_logit_difference']:.1e}" if "largest_logit_difference" in told else "",
        f"{told['bits_per_byte']:.3f}" if "bits_per_byte" in told else "",
        f"FAILED: {proof.message}" if not proof.passed else f"{proof.seconds:.0f} s" if proof.seconds else "",
        proof.proven_at[:10],
    ]
    return f"| {' | '.join(cells)} |"
