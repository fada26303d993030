"""Checks the claims of a submission against its model, in the sandbox with limits on time and memory.

Input: submission.json (counted parameters, model hash, weight class) and a checkpoint folder. Output: a ClaimCheck.
Note: a file does not show what was frozen, so every floating-point weight counts except an accepted list of names.
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
    """The verdict (pass, fail or unproven) and its reasons."""

    verdict: str
    reasons: tuple[str, ...]
    counted: int | None = None


def verify_claim(
    submission: Path, model: Path, frozen: tuple[str, ...] = (), rules: Path | None = None
) -> ClaimCheck:
    """Check a claim under an edition's rules in the sandbox; running out of time or memory is `unproven`."""
    request = {"submission": str(submission), "model": str(model), "frozen": frozen}
    if rules is not None:
        request["rules"] = str(rules)
    try:
        output = run_limited(["-m", "smalltale.counting.verify", json.dumps(request)])
        answer = json.loads(output.splitlines()[-1])
    except (SmalltaleError, json.JSONDecodeError) as error:
        return ClaimCheck(verdict="unproven", reasons=(f"counting {error}",))
    return ClaimCheck(verdict=answer["verdict"], reasons=tuple(answer["reasons"]), counted=answer["counted"])


def check_claim(
    submission: Path, folder: Path, frozen: frozenset[str], rules: Path | None = None
) -> ClaimCheck:
    """Check a claim in this process."""
    from smalltale.counting.count import count_parameters
    from smalltale.model.architectures import build_model
    from smalltale.model.weights_file import check_weights
    from smalltale.rules import Rules, parse_rules

    edition = parse_rules(read_text(rules), str(rules)) if rules else Rules()
    claim = read_json(submission / "submission.json" if submission.is_dir() else submission)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise FileProblem(f"{folder} has {len(files)} safetensors files; give one (pickles are not opened)")
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
        reasons.append(f"the submission names the hash {claimed_hash}, the file has {digest}")
    report = count_parameters(model, every_float=True, frozen=frozen)
    weight_class = edition.weight_class(str(claim.get("weight_class", "small")))
    if report.counted > weight_class.max_parameters:
        reasons.append(
            f"{report.counted:,} counted parameters are over class {weight_class.name} ({weight_class.max_parameters:,})"
        )
    claimed = claim.get("counted_parameters")
    if isinstance(claimed, int) and claimed < report.counted:
        reasons.append(f"the submission claims {claimed:,} parameters, {report.counted:,} were counted")
    if reasons:
        return ClaimCheck(verdict="fail", reasons=tuple(reasons), counted=report.counted)
    doubts = tuple(note for note in report.notes if note.startswith("unproven"))
    return ClaimCheck(verdict="pass" if report.proven else "unproven", reasons=doubts, counted=report.counted)


def main() -> None:
    """Check the claim in the first argument, a JSON object, and print the ClaimCheck as one line of JSON.

    The server runs this module in its own sandbox: it may not import this package, and one sandbox is enough.
    """
    request = json.loads(sys.argv[1])
    submission, model = Path(request["submission"]), Path(request["model"])
    rules = Path(request["rules"]) if "rules" in request else None
    try:
        check = check_claim(submission, model, frozenset(request["frozen"]), rules)
    except SmalltaleError as error:
        check = ClaimCheck(verdict="fail", reasons=(str(error),))
    sys.stdout.write(json.dumps(asdict(check)) + "\n")


if __name__ == "__main__":
    main()
