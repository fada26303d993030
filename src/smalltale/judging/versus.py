"""Two judged entries side by side, on the prompts and the judges they share.

In: two judgements folders. Out: a Paired comparison for the overall score and each criterion.
Beware: judgements under different rubrics are never compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.files import read_json
from smalltale.judging.folder import META, read_judgements
from smalltale.judging.judgement import Judgement
from smalltale.judging.scores import Paired, paired


def compare_folders(first: Path, second: Path) -> dict[str, Paired]:
    """The comparison by measure. Raises SmalltaleError where nothing is shared."""
    one, two = read_judgements(first), read_judgements(second)
    hashes = {each.rubric_hash for each in (*one, *two)}
    if len(hashes) > 1:
        raise SmalltaleError(
            f"{first} and {second} were judged under different rubrics ({', '.join(sorted(hashes))}); judge both under one"
        )
    judges = {each.judge for each in one} & {each.judge for each in two}
    if not judges:
        raise SmalltaleError(f"{first} and {second} share no judge; judge both with the same ones")
    found = {}
    for measure in ("overall", *sorted({name for each in one for name in each.scores})):
        comparison = paired(by_prompt(one, measure, judges), by_prompt(two, measure, judges))
        if comparison is not None:
            found[measure] = comparison
    if not found:
        raise SmalltaleError(
            f"{first} and {second} share no prompt with a score; judge both on the same prompts"
        )
    return found


def by_prompt(judgements: Sequence[Judgement], measure: str, judges: set[str]) -> dict[str, list[float]]:
    """The scores of one measure."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in judgements:
        value = each.overall if measure == "overall" else each.scores.get(measure)
        if value is not None and each.judge in judges:
            found[each.prompt].append(value)
    return found


def may_rank(folder: Path) -> bool:
    """Whether every judge of a folder has qualified."""
    return bool(read_json(folder / META).get("qualified"))
