"""Scores weighted by the judge's own probabilities of each mark.

In: a reply with the likeliest tokens in each place. Out: the expected mark of each criterion.
Beware: where a tokenizer splits a mark (10 as 1 and 0), a place's probabilities do not tell the marks apart; such a
criterion is left out, never guessed.
"""

from __future__ import annotations

import math
import re

from smalltale.judging.judge import Reply, TokenChoice
from smalltale.judging.rubric import Rubric, RubricField

MIN_PROBABILITY_MASS = 0.5
"""Probability that the marks of a scale must have together, else the place is not about a mark."""


def weighted_scores(reply: Reply, rubric: Rubric) -> dict[str, float]:
    """The expected mark of each criterion whose place in the answer is one token."""
    if not reply.tokens or "".join(each.token for each in reply.tokens) != reply.text:
        return {}
    found = {}
    for name, scale in rubric.criteria.items():
        match = re.search(rf'"{re.escape(name)}"\s*:\s*(\d+)', reply.text)
        choice = find_token(reply, match.start(1), match.end(1)) if match else None
        if choice is not None and (mean := expected_score(choice, scale)) is not None:
            found[name] = mean
    return found


def find_token(reply: Reply, begin: int, end: int) -> TokenChoice | None:
    """The token that spans exactly the mark, white space before it aside."""
    at = 0
    for each in reply.tokens:
        if at + len(each.token) == end and begin >= at and not reply.text[at:begin].strip():
            return each
        at += len(each.token)
    return None


def expected_score(choice: TokenChoice, scale: RubricField) -> float | None:
    """The mean mark under the place's probabilities, over the marks of the scale."""
    mass: dict[int, float] = {}
    for token, logprob in choice.top.items():
        text = token.strip()
        if text.isascii() and text.isdigit() and scale.low <= int(text) <= scale.high:
            mass[int(text)] = mass.get(int(text), 0.0) + math.exp(logprob)
    total = sum(mass.values())
    split = (
        len(choice.token.strip()) == 1
        and scale.high >= 10
        and 10 not in mass
        and mass.get(1, 0.0) > 0.05 * total
    )
    if total < MIN_PROBABILITY_MASS or split:
        return None
    return sum(mark * share for mark, share in mass.items()) / total
