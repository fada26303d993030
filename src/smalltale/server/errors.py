"""Errors of a request: an HTTP status, a title, and one message per wrong field.

Output: RequestProblem, which pages show next to the form's fields and the API returns as problem+json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smalltale.errors import SmalltaleError

FORM_ERROR_STATUSES = {409, 422}
"""Statuses for which a page shows its form again, with the values that were entered."""


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field, and how to fix it."""

    field: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


class RequestProblem(SmalltaleError):
    """A request that cannot be carried out, with the problems of its fields."""

    def __init__(self, status: int, title: str, fields: Sequence[FieldProblem] = ()) -> None:
        super().__init__("; ".join([title, *(f"{problem.field}: {problem}" for problem in fields)]))
        self.status, self.title, self.fields = status, title, list(fields)

    def as_json(self) -> dict[str, Any]:
        """The body of application/problem+json (RFC 9457). `mend` repeats `fix` for older clients."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "errors": [
                {"field": problem.field, "found": problem.message, "fix": problem.fix, "mend": problem.fix}
                for problem in self.fields
            ],
        }


def invalid_field(field: str, message: str, fix: str = "", status: int = 422) -> RequestProblem:
    """A problem with one field."""
    return RequestProblem(status, "this was not accepted", [FieldProblem(field, message, fix)])


def not_found(resource: str) -> RequestProblem:
    """Status 404: the resource does not exist, or this person may not learn that it exists."""
    return RequestProblem(404, f"no such {resource}")


def forbidden(reason: str) -> RequestProblem:
    """Status 403: the person is known and lacks the permission."""
    return RequestProblem(403, reason)
