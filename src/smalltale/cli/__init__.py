"""The command line: the only package that connects stages, reads recipes and prints results.

Each module has the commands of one stage and imports that stage inside the command, so that `smalltale --help` and
commands without a model do not import torch.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from smalltale.errors import SmalltaleError
from smalltale.progress import set_up_logging


def build_app() -> typer.Typer:
    """The command tree; its order is that of `smalltale --help`."""
    from smalltale.cli import (
        checkpoint,
        corpus,
        count,
        demo,
        doctor,
        edition,
        frameworks,
        generate,
        judge,
        leaderboard,
        measure,
        prompts,
        provenance,
        runs,
        serve,
        submission,
        submit,
        tokens,
        train,
        tune,
    )

    app = typer.Typer(
        name="smalltale",
        help="Pretrain small story models from scratch, and run the hackathon that ranks them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    stages = (
        demo, doctor, corpus, tokens, count, train, tune, checkpoint, runs, frameworks,
        prompts, generate, submission, measure, provenance, judge, leaderboard, submit, serve, edition,
    )  # fmt: skip
    for stage in stages:
        stage.add_to(app)
    return app


def main() -> None:
    """Run the command; a SmalltaleError becomes one line on standard error and exit code 2."""
    handler = set_up_logging()

    def exit_with(message: str) -> NoReturn:
        handler.close()
        print(f"smalltale: {message}", file=sys.stderr)
        sys.exit(2)

    try:
        build_app()()
    except SmalltaleError as error:
        exit_with(str(error))
    except (KeyboardInterrupt, SystemExit) as exception:
        if not is_interrupt(exception):
            raise
        exit_with("interrupted; finished work is saved, and the same command continues from there")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        location = f"{error.filename}: " if error.filename else ""
        exit_with(f"{location}{error.strerror}; free some space or choose another path")
    finally:
        handler.close()


def is_interrupt(exception: BaseException | None) -> bool:
    """Whether Ctrl-C caused this exception; typer turns KeyboardInterrupt into an exit."""
    while exception is not None:
        if isinstance(exception, KeyboardInterrupt):
            return True
        exception = exception.__cause__ or exception.__context__
    return False
