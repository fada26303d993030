"""Expected scores under the judge's own token probabilities.

Input: a reply with the likeliest tokens at each position. Output: the expected score of each criterion.
Note: where the tokenizer splits a score (10 as 1 and 0), the probabilities at one position do not separate 1 from 10; such
a criterion is left out.
"""

from __future__ import annotations

import math
import re

from smalltale.judging.judge import Reply, TokenChoice
from smalltale.judging.rubric import Rubric, RubricField

MIN_PROBABILITY_MASS = 0.5
"""Least total probability of the scale's scores; with less, the token is not a score."""


def weighted_scores(reply: Reply, rubric: Rubric) -> dict[str, float]:
    """The expected score of each criterion whose score is a single token."""
    if not reply.tokens or "".join(choice.token for choice in reply.tokens) != reply.text:
        return {}
    scores = {}
    for name, scale in rubric.criteria.items():
        match = re.search(rf'"{re.escape(name)}"\s*:\s*(\d+)', reply.text)
        choice = find_token(reply, match.start(1), match.end(1)) if match else None
        if choice is not None and (mean := expected_score(choice, scale)) is not None:
            scores[name] = mean
    return scores


def find_token(reply: Reply, begin: int, end: int) -> TokenChoice | None:
    """The token that spans exactly these characters, except for leading white space."""
    start = 0
    for choice in reply.tokens:
        if start + len(choice.token) == end and begin >= start and not reply.text[start:begin].strip():
            return choice
        start += len(choice.token)
    return None


def expected_score(choice: TokenChoice, scale: RubricField) -> float | None:
    """The mean score under the token probabilities, over the scores of the scale. None if they are not about a score."""
    mass: dict[int, float] = {}
    for token, logprob in choice.top.items():
        text = token.strip()
        if text.isascii() and text.isdigit() and scale.low <= int(text) <= scale.high:
            mass[int(text)] = mass.get(int(text), 0.0) + math.exp(logprob)
    total = sum(mass.values())
    may_be_split = (
        len(choice.token.strip()) == 1
        and scale.high >= 10
        and 10 not in mass
        and mass.get(1, 0.0) > 0.05 * total
    )
    if total < MIN_PROBABILITY_MASS or may_be_split:
        return None
    return sum(score * probability for score, probability in mass.items()) / total
