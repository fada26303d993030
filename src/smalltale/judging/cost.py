"""The cost of a judging run: estimate before it, spending during it, and the budget that stops it.

Input: prices by judge, in dollars per million tokens. Output: dollars.
Note: an estimate assumes four characters per token and answers of half the allowed length, which gives the order of
magnitude; spending is counted from the tokens that the provider reports. The budget reserves each call's likely maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from smalltale.errors import SmalltaleError
from smalltale.judging.item import Item
from smalltale.judging.rubric import Rubric

CHARACTERS_PER_TOKEN = 4.0
ANSWER_SHARE = 0.5


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def dollars(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass
class Spending:
    """Tokens and dollars spent so far."""

    prices: Mapping[str, Price]
    budget: float = 0.0
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    reserved: float = 0.0
    """Dollars that the calls in flight may cost."""
    max_call_dollars: float = 0.0
    """The most that one judgement has cost."""

    def add(self, judge: str, input_tokens: int, output_tokens: int) -> None:
        if judge in self.prices:
            dollars = self.prices[judge].dollars(input_tokens, output_tokens)
            self.max_call_dollars = max(self.max_call_dollars, dollars)
        total_input, total_output = self.tokens.get(judge, (0, 0))
        self.tokens[judge] = (total_input + input_tokens, total_output + output_tokens)

    @property
    def dollars(self) -> float | None:
        """None if a judge that was asked has no price."""
        if any(name not in self.prices for name in self.tokens):
            return None
        return sum(self.prices[name].dollars(*tokens) for name, tokens in self.tokens.items())

    def estimate_max_dollars(self, judge: str, rubric: Rubric, text: str) -> float:
        """Likely maximum for one text: the longest answer, or the most expensive judgement so far. 0 without a price."""
        if judge not in self.prices:
            return 0.0
        tokens = estimate_input_tokens(rubric, text), rubric.max_answer_tokens
        return max(self.max_call_dollars, self.prices[judge].dollars(*tokens))

    def reserve(self, dollars: float) -> bool:
        """Reserve dollars for a call. False if that would exceed the budget."""
        if self.budget > 0 and (self.dollars or 0.0) + self.reserved + dollars > self.budget:
            return False
        self.reserved += dollars
        return True

    def release(self, dollars: float) -> None:
        """End the reservation of a call; `add` counts its actual cost."""
        self.reserved -= dollars


@dataclass(frozen=True)
class Estimate:
    """Estimated calls, tokens and dollars of asking one judge; `dollars` is None without a price."""

    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None

    def __add__(self, other: Estimate) -> Estimate:
        """The sum of two estimates of the same judge."""
        return Estimate(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            None if self.dollars is None or other.dollars is None else self.dollars + other.dollars,
        )


def estimate_cost(items: Sequence[Item], rubric: Rubric, price: Price | None) -> Estimate:
    """Estimate asking a judge about `items`. A story that speaks to the judge takes two calls."""
    texts = [
        f"{item.prompt} {text}"
        for item in items
        for text in (item.shown, item.without_judge_directed_text)
        if text is not None
    ]
    input_tokens = sum(estimate_input_tokens(rubric, text) for text in texts)
    output_tokens = round(len(texts) * rubric.max_answer_tokens * ANSWER_SHARE)
    dollars = price.dollars(input_tokens, output_tokens) if price else None
    return Estimate(len(texts), input_tokens, output_tokens, dollars)


def estimate_input_tokens(rubric: Rubric, text: str) -> int:
    """Approximate input tokens of one request."""
    return round((len(rubric.system) + len(rubric.task) + len(text)) / CHARACTERS_PER_TOKEN)


def parse_price(text: str) -> tuple[str, Price]:
    """Parse `JUDGE=INPUT/OUTPUT`. Raises SmalltaleError."""
    name, equals, numbers = text.rpartition("=")
    try:
        price = Price(*map(float, numbers.split("/")))
        is_valid = bool(equals) and price.input >= 0 and price.output >= 0
    except (ValueError, TypeError):
        is_valid = False
    if not is_valid:
        raise SmalltaleError(f"--price {text!r} is not JUDGE=INPUT/OUTPUT in dollars per million tokens")
    return name, price
