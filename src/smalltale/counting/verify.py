"""An organiser's check of a claimed model, in a process of its own with limits on time and memory.

In: submission.json (counted parameters, model hash, weight class) and a checkpoint folder. Out: a Verdict.
Beware: nothing in a file shows what was frozen, so every floating-point weight counts but for an accepted list.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json, read_text, sha256_file
from smalltale.sandbox import run_limited


@dataclass(frozen=True, kw_only=True)
class ClaimCheck:
    """pass, fail or unproven, and why."""

    verdict: str
    reasons: tuple[str, ...]
    counted: int | None = None


def verify_claim(
    submission: Path, model: Path, frozen: tuple[str, ...] = (), rules: Path | None = None
) -> ClaimCheck:
    """Check a claim under an edition's rules in the sandbox; running out of time or memory is `unproven`."""
    question = {"submission": str(submission), "model": str(model), "frozen": frozen}
    if rules is not None:
        question["rules"] = str(rules)
    try:
        answer = json.loads(
            run_limited(["-m", "smalltale.counting.verify", json.dumps(question)]).splitlines()[-1]
        )
    except (SmalltaleError, json.JSONDecodeError) as error:
        return ClaimCheck(verdict="unproven", reasons=(f"counting {error}",))
    return ClaimCheck(verdict=answer["verdict"], reasons=tuple(answer["reasons"]), counted=answer["counted"])


def check_claim(
    submission: Path, folder: Path, frozen: frozenset[str], rules: Path | None = None
) -> ClaimCheck:
    """The check itself, in this process."""
    from smalltale.counting.count import count_parameters
    from smalltale.model.architectures import build_model
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
        model = build_model(folder)
    except SmalltaleError as error:
        return ClaimCheck(verdict="unproven", reasons=(str(error),))
    reasons = []
    try:
        check_weights(model, files[0])
    except FileProblem as error:
        reasons.append(str(error))
    digest = sha256_file(files[0])
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
        return ClaimCheck(verdict="fail", reasons=tuple(reasons), counted=count.counted)
    doubts = tuple(note for note in count.notes if note.startswith("unproven"))
    return ClaimCheck(verdict="pass" if count.proven else "unproven", reasons=doubts, counted=count.counted)


def main() -> None:
    """Answer the question in the first argument, a JSON object, with one line of JSON.

    The server calls this in its own sandbox: it may not import this package, and one sandbox is enough.
    """
    question = json.loads(sys.argv[1])
    try:
        rules = Path(question["rules"]) if "rules" in question else None
        answer = check_claim(
            Path(question["submission"]), Path(question["model"]), frozenset(question["frozen"]), rules
        )
    except SmalltaleError as error:
        answer = ClaimCheck(verdict="fail", reasons=(str(error),))
    sys.stdout.write(json.dumps(asdict(answer)) + "\n")


if __name__ == "__main__":
    main()
