"""Search for a recipe's best settings: Optuna's trials, each one training run, pruned on its bits per byte.

In: ranges for recipe keys, a study's storage, what runs a trial. Out: the study, with every trial in it.
Beware: machines share a study through its storage alone; each trial's folder lies on the machine that ran it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smalltale.errors import FileProblem, MissingExtra, RecipeError, SmalltaleError

if TYPE_CHECKING:
    import optuna

    from smalltale.training.checkpoint import RunState

log = logging.getLogger(__name__)

Value = float | int | str
FORMS = "log:LOW:HIGH, float:LOW:HIGH, int:LOW:HIGH or choice:A,B,C"
TRIALS_BEFORE_PRUNING = 4


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values to try for one recipe key."""

    key: str
    kind: Literal["log", "float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def draw(self, trial: optuna.Trial) -> Value:
        """A trial's value."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(self.key, self.choices))
        if self.kind == "int":
            return trial.suggest_int(self.key, int(self.low), int(self.high))
        return trial.suggest_float(self.key, self.low, self.high, log=self.kind == "log")

    def samples(self) -> tuple[Value, ...]:
        """Values at the range's ends, to check against the recipe before anything is trained."""
        if self.kind == "choice":
            return self.choices
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)


def parse_range(text: str) -> Range:
    """`section.key=log:0.005:0.05` as a Range. Raises RecipeError."""
    key, equals, told = text.partition("=")
    kind, _, values = told.partition(":")
    if not equals or kind not in ("log", "float", "int", "choice"):
        raise RecipeError(f"--search {text!r} is not of the form section.key=RANGE; a RANGE is {FORMS}")
    if kind == "choice":
        choices = tuple(each.strip() for each in values.split(","))
        if not all(choices) or len(set(choices)) != len(choices):
            raise RecipeError(f"--search {text!r} has an empty or repeated choice; give each once")
        return Range(key=key, kind="choice", choices=choices)
    low, _, high = values.partition(":")
    try:
        ends = (float(int(low)), float(int(high))) if kind == "int" else (float(low), float(high))
    except ValueError as error:
        raise RecipeError(f"--search {text!r}: {error}; a RANGE is {FORMS}") from error
    if not ends[0] < ends[1]:
        raise RecipeError(f"--search {text!r}: {low} is not below {high}; give the lower bound first")
    if kind == "log" and ends[0] <= 0:
        raise RecipeError(f"--search {text!r}: a log range begins above 0; raise {low}, or use float")
    return Range(key=key, kind=kind, low=ends[0], high=ends[1])  # type: ignore[arg-type]


def as_override(key: str, value: Value) -> str:
    """A value as `--set` takes it, which is a line of TOML too, but for the quotes of a text."""
    return f"{key}={value!r}" if not isinstance(value, str) else f"{key}={value}"


Trial = Callable[[int, Sequence[str], Callable[[object, "RunState"], None]], float | None]
"""Runs one trial: its number, its overrides, a watcher. Returns bits per byte."""


def open_study(name: str, storage: str) -> optuna.Study:
    """The study of that name, made where it is new. `storage`: a database URL, or a journal file's path.

    Raises MissingExtra, FileProblem.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise MissingExtra("optuna", "tune", "smalltale tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" in storage:
            place: optuna.storages.BaseStorage | str = storage
        else:
            from optuna.storages.journal import JournalFileBackend, JournalStorage

            place = JournalStorage(JournalFileBackend(storage))
        return optuna.create_study(
            study_name=name,
            storage=place,
            load_if_exists=True,
            direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=os.getpid(), constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
        )
    except (OSError, ValueError, ImportError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        first = str(error).strip().splitlines()[0]
        raise FileProblem(
            f"the study {name} cannot be opened at {storage} ({first}); give a journal file's path, "
            "sqlite:///FILE or postgresql://…"
        ) from error


def search(study: optuna.Study, ranges: Sequence[Range], trials: int, run: Trial) -> None:
    """Run trials until the study has `trials` finished ones, those of other machines included."""
    import optuna

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    take_up(study)

    def one(trial: optuna.Trial) -> float:
        trial.set_user_attr("worker", [socket.gethostname(), os.getpid()])
        overrides = [as_override(each.key, each.draw(trial)) for each in ranges]
        log.info("trial %d: %s", trial.number, " ".join(overrides))
        looks = 0

        def watch(_model: object, state: RunState) -> None:
            nonlocal looks
            if state.best_bits_per_byte is None:
                return
            looks += 1
            trial.report(state.best_bits_per_byte, looks)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            bits = run(trial.number, overrides, watch)
        except SmalltaleError as error:
            log.warning("trial %d did not end: %s", trial.number, error)
            trial.set_user_attr("trouble", str(error))
            raise optuna.TrialPruned from error
        if bits is None:
            raise SmalltaleError(
                "the token folder has no held-out story to measure bits per byte on; encode a corpus with a val split"
            )
        return bits

    def tell(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        done = len(study.get_trials(deepcopy=False, states=ended))
        result = "pruned" if trial.value is None else f"{trial.value:.4f} bits per byte"
        log.info("trial %d: %s (%d of %d)", trial.number, result, done, trials)
        if done >= trials:
            study.stop()

    if len(study.get_trials(deepcopy=False, states=ended)) < trials:
        study.optimize(one, callbacks=[tell])


def take_up(study: optuna.Study) -> None:
    """Queue again the trials that a process of this machine left unfinished when it was killed."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        host, process = trial.user_attrs.get("worker", ("", 0))
        if host == socket.gethostname() and not alive(process):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
