"""The command line: one verb a stage. The only place that joins stages, reads recipes and prints results.

Each module here holds the verbs of one stage and imports that stage inside the verb, so that
`smalltale --help` and a light verb never wait for torch.
"""

from __future__ import annotations

import sys

import typer

from smalltale.errors import SmalltaleError
from smalltale.progress import set_up_logging

EXIT_USER_ERROR = 2


def build_app() -> typer.Typer:
    """The whole command tree."""
    from smalltale.cli import (
        checkpoint,
        corpus,
        count,
        demo,
        doctor,
        frameworks,
        generate,
        hackathon,
        judge,
        leaderboard,
        measure,
        plausible,
        prompts,
        runs,
        serve,
        submission,
        tokens,
        train,
        tune,
    )

    app = typer.Typer(
        name="smalltale",
        help="Pretrain small storytellers from scratch, and run the hackathon that ranks them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for stage in (
        demo,
        doctor,
        corpus,
        tokens,
        count,
        train,
        tune,
        checkpoint,
        runs,
        frameworks,
        prompts,
        generate,
        submission,
        measure,
        plausible,
        judge,
        leaderboard,
        serve,
        hackathon,
    ):
        stage.add_to(app)
    return app


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2."""
    handler = set_up_logging()
    try:
        build_app()()
    except SmalltaleError as error:
        stop(handler.close, str(error))
    except (KeyboardInterrupt, SystemExit) as left:
        if not from_interrupt(left):
            raise
        stop(handler.close, "interrupted; what was finished is kept, and the same command goes on from there")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        stop(handler.close, f"{where}{error.strerror}; free some space or choose another place")
    finally:
        handler.close()


def from_interrupt(left: BaseException | None) -> bool:
    """Whether an exit began with Ctrl-C; typer turns that into an exit code of its own."""
    while left is not None:
        if isinstance(left, KeyboardInterrupt):
            return True
        left = left.__cause__ or left.__context__
    return False


def stop(close: object, message: str) -> None:
    """Print one line and leave with exit code 2."""
    if callable(close):
        close()
    print(f"smalltale: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
