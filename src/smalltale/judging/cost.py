"""What a run will cost, what it has cost, and where it stops.

In: prices by judge, in dollars for a million tokens. Out: dollars, before and after.
Beware: an estimate counts four characters a token and answers of half the allowed length; it is for the order of magnitude,
the bill is counted from what the provider reports. A budget sets each call's likely most aside before the call is made.
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
    """Dollars for a million tokens."""

    input: float
    output: float

    def dollars(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass
class Spending:
    """Tokens and dollars so far."""

    prices: Mapping[str, Price]
    budget: float = 0.0
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    reserved: float = 0.0
    """Dollars that the calls on their way may still cost."""
    max_call_dollars: float = 0.0
    """The most that one text has cost."""

    def add(self, judge: str, input_tokens: int, output_tokens: int) -> None:
        if judge in self.prices:
            self.max_call_dollars = max(
                self.max_call_dollars, self.prices[judge].dollars(input_tokens, output_tokens)
            )
        read, written = self.tokens.get(judge, (0, 0))
        self.tokens[judge] = (read + input_tokens, written + output_tokens)

    @property
    def dollars(self) -> float | None:
        """None where a judge that was asked has no price."""
        if any(name not in self.prices for name in self.tokens):
            return None
        return sum(self.prices[name].dollars(*tokens) for name, tokens in self.tokens.items())

    def estimate_max_dollars(self, judge: str, rubric: Rubric, text: str) -> float:
        """Dollars of asking a judge about a text: the longest answer, or the dearest text so far. 0 without a price."""
        price = self.prices.get(judge)
        if price is None:
            return 0.0
        return max(
            self.max_call_dollars,
            price.dollars(estimate_input_tokens(rubric, text), rubric.max_answer_tokens),
        )

    def reserve(self, dollars: float) -> bool:
        """Set dollars aside for a call. False where that would pass the budget."""
        if self.budget > 0 and (self.dollars or 0.0) + self.reserved + dollars > self.budget:
            return False
        self.reserved += dollars
        return True

    def release(self, dollars: float) -> None:
        """A call has ended; what it cost is added by `add`."""
        self.reserved -= dollars


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one judge would be asked."""

    judge: str
    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None

    def __add__(self, other: Estimate) -> Estimate:
        """Both, of one judge."""
        known = self.dollars is not None and other.dollars is not None
        return Estimate(
            judge=self.judge,
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            dollars=(self.dollars or 0.0) + (other.dollars or 0.0) if known else None,
        )


def estimate_cost(judge: str, items: Sequence[Item], rubric: Rubric, price: Price | None) -> Estimate:
    """Calls, tokens and dollars of asking a judge about `items`; about a story that speaks to it, twice."""
    texts = [
        f"{item.prompt} {text}"
        for item in items
        for text in (item.shown, item.without_judge_directed_text)
        if text is not None
    ]
    read = sum(estimate_input_tokens(rubric, text) for text in texts)
    written = round(len(texts) * rubric.max_answer_tokens * ANSWER_SHARE)
    return Estimate(
        judge=judge,
        calls=len(texts),
        input_tokens=read,
        output_tokens=written,
        dollars=price.dollars(read, written) if price else None,
    )


def estimate_input_tokens(rubric: Rubric, text: str) -> int:
    """Tokens of one request, about."""
    return round((len(rubric.system) + len(rubric.task) + len(text)) / CHARACTERS_PER_TOKEN)


def parse_price(text: str) -> tuple[str, Price]:
    """`NAME=INPUT/OUTPUT` as a price. Raises SmalltaleError."""
    name, equals, numbers = text.rpartition("=")
    try:
        read, _, written = numbers.partition("/")
        price = Price(float(read), float(written))
    except ValueError as error:
        raise SmalltaleError(
            f"--price {text!r} is not JUDGE=INPUT/OUTPUT in dollars a million tokens"
        ) from error
    if not equals or not (price.input >= 0 and price.output >= 0):
        raise SmalltaleError(f"--price {text!r} is not JUDGE=INPUT/OUTPUT in dollars a million tokens")
    return name, price
