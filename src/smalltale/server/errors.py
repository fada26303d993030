"""What a form or the API answers to bad input: each field, what was found, and the mend.

In: nothing. Out: Problem, which pages show beside the fields and the API as problem+json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smalltale.errors import SmalltaleError

MENDABLE = {409, 422}
"""Statuses of a form that its own page shows again, with what was typed."""


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with one field."""

    field: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.found}; {self.mend}" if self.mend else self.found


class Problem(SmalltaleError):
    """A request that cannot be done, with an HTTP status and every field's problem."""

    def __init__(self, status: int, title: str, fields: Sequence[FieldProblem] = ()) -> None:
        super().__init__("; ".join([title, *(f"{each.field}: {each}" for each in fields)]))
        self.status, self.title, self.fields = status, title, list(fields)

    def as_json(self) -> dict[str, Any]:
        """The body of application/problem+json (RFC 9457)."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "errors": [asdict(each) for each in self.fields],
        }


def refused(field: str, found: str, mend: str = "", status: int = 422) -> Problem:
    """A problem with one field."""
    return Problem(status, "this was not accepted", [FieldProblem(field, found, mend)])


def missing(what: str) -> Problem:
    """The thing does not exist, or this person may not know that it does."""
    return Problem(404, f"there is no such {what}")


def forbidden(why: str) -> Problem:
    """The person is known, and may not."""
    return Problem(403, why)
