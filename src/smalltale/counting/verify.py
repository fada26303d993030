"""An organiser's check of a claimed model, in a process of its own with limits on time and memory.

In: submission.json (counted parameters, model hash, weight class) and a checkpoint folder. Out: a Verdict.
Beware: nothing in a file shows what was frozen, so every floating-point weight counts but for an accepted list.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json, read_text, sha256_of

SECONDS, GIBIBYTES = 120, 6


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """pass, fail or unproven, and why."""

    verdict: str
    reasons: tuple[str, ...]
    counted: int | None = None


def verify(
    submission: Path,
    model: Path,
    frozen: tuple[str, ...] = (),
    rules: Path | None = None,
    seconds: int = SECONDS,
    gibibytes: int = GIBIBYTES,
) -> Verdict:
    """Check a claim under an edition's rules in a limited process; running out of time or memory is `unproven`."""
    named = {"submission": str(submission), "model": str(model), "frozen": frozen}
    asked = json.dumps(named | ({"rules": str(rules)} if rules else {}))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (gibibytes << 30, gibibytes << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (2 * seconds, 2 * seconds))

    try:
        ran = subprocess.run(
            [sys.executable, "-m", "smalltale.counting.verify"],
            input=asked,
            capture_output=True,
            text=True,
            timeout=seconds,
            preexec_fn=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(verdict="unproven", reasons=(f"counting took more than {seconds} seconds",))
    try:
        answer = json.loads(ran.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return Verdict(
            verdict="unproven",
            reasons=(f"counting stopped with status {ran.returncode} within {gibibytes} GiB ({last[:200]})",),
        )
    return Verdict(verdict=answer["verdict"], reasons=tuple(answer["reasons"]), counted=answer["counted"])


def checked(submission: Path, folder: Path, frozen: frozenset[str], rules: Path | None = None) -> Verdict:
    """The check itself, in this process."""
    from smalltale.counting.count import count_parameters
    from smalltale.model.architectures import model_of_folder
    from smalltale.model.weights_file import check_weights
    from smalltale.rules import Rules, parse_rules

    edition = parse_rules(read_text(rules), str(rules)) if rules else Rules()
    claim = read_json(submission / "submission.json" if submission.is_dir() else submission)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise FileProblem(
            f"{folder} holds {len(files)} safetensors files; one is needed, and pickles are not opened"
        )
    try:
        model = model_of_folder(folder)
    except SmalltaleError as error:
        return Verdict(verdict="unproven", reasons=(str(error),))
    reasons = []
    try:
        check_weights(model, files[0])
    except FileProblem as error:
        reasons.append(str(error))
    digest = sha256_of(files[0])
    claimed_hash = claim.get("model_hash", claim.get("model_sha256"))
    if claimed_hash != digest:
        reasons.append(f"the hand-in names the hash {claimed_hash}, the file has {digest}")
    count = count_parameters(model, every_float=True, frozen=frozen)
    weight_class = edition.weight_class(str(claim.get("weight_class", "small")))
    if count.counted > weight_class.max_parameters:
        reasons.append(
            f"{count.counted:,} counted parameters are over class {weight_class.name} ({weight_class.max_parameters:,})"
        )
    claimed = claim.get("counted_parameters")
    if isinstance(claimed, int) and claimed < count.counted:
        reasons.append(f"the hand-in claims {claimed:,} counted parameters, {count.counted:,} were found")
    if reasons:
        return Verdict(verdict="fail", reasons=tuple(reasons), counted=count.counted)
    doubts = tuple(note for note in count.notes if note.startswith("unproven"))
    return Verdict(verdict="pass" if count.proven else "unproven", reasons=doubts, counted=count.counted)


def main() -> None:
    """Read the question from standard input, answer with one JSON line."""
    asked = json.loads(sys.stdin.read())
    try:
        rules = Path(asked["rules"]) if "rules" in asked else None
        verdict = checked(Path(asked["submission"]), Path(asked["model"]), frozenset(asked["frozen"]), rules)
    except SmalltaleError as error:
        verdict = Verdict(verdict="fail", reasons=(str(error),))
    sys.stdout.write(json.dumps(asdict(verdict)) + "\n")


if __name__ == "__main__":
    main()
