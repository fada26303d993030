"""Hyperparameter search with Optuna: each trial is one training run, pruned by its bits per byte.

Input: ranges for recipe keys, a study's storage, a function that runs a trial. Output: the study with all its trials.
Note: machines share a study through its storage only; each trial's folder stays on the machine that ran it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smalltale.errors import FileProblem, MissingExtra, RecipeError, SmalltaleError, first_line

if TYPE_CHECKING:
    import optuna

    from smalltale.training.checkpoint import RunState

log = logging.getLogger(__name__)

Setting = float | int | str
RANGE_FORMS = "log:LOW:HIGH, float:LOW:HIGH, int:LOW:HIGH or choice:A,B,C"
TRIALS_BEFORE_PRUNING = 4


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """The values to try for one recipe key."""

    key: str
    kind: Literal["log", "float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Setting:
        """The value that the study suggests for a trial."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(self.key, self.choices))
        if self.kind == "int":
            return trial.suggest_int(self.key, int(self.low), int(self.high))
        return trial.suggest_float(self.key, self.low, self.high, log=self.kind == "log")

    def bounds(self) -> tuple[Setting, ...]:
        """Both bounds or all choices, to validate against the recipe before training."""
        if self.kind == "choice":
            return self.choices
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)


def parse_range(text: str) -> SearchRange:
    """`section.key=log:0.005:0.05` as a SearchRange. Raises RecipeError."""
    key, equals, range_text = text.partition("=")
    kind, _, values = range_text.partition(":")
    if not equals or kind not in ("log", "float", "int", "choice"):
        raise RecipeError(f"--search {text!r} is not of the form section.key=RANGE; a RANGE is {RANGE_FORMS}")
    if kind == "choice":
        choices = tuple(choice.strip() for choice in values.split(","))
        if not all(choices) or len(set(choices)) != len(choices):
            raise RecipeError(f"--search {text!r} has an empty or repeated choice; give each once")
        return SearchRange(key=key, kind="choice", choices=choices)
    low, _, high = values.partition(":")
    try:
        bounds = (float(int(low)), float(int(high))) if kind == "int" else (float(low), float(high))
    except ValueError as error:
        raise RecipeError(f"--search {text!r}: {error}; a RANGE is {RANGE_FORMS}") from error
    if not bounds[0] < bounds[1]:
        raise RecipeError(f"--search {text!r}: {low} is not below {high}; give the lower bound first")
    if kind == "log" and bounds[0] <= 0:
        raise RecipeError(f"--search {text!r}: a log range begins above 0; raise {low}, or use float")
    return SearchRange(key=key, kind=kind, low=bounds[0], high=bounds[1])  # type: ignore[arg-type]


def format_override(key: str, setting: Setting) -> str:
    """A setting as `--set` takes it, which is also a line of TOML except for the quotes of a string."""
    return f"{key}={setting}" if isinstance(setting, str) else f"{key}={setting!r}"


TrialRunner = Callable[[int, Sequence[str], Callable[[object, "RunState"], None]], float | None]
"""Runs one trial: its number, its overrides, an evaluation callback. Returns bits per byte."""


def open_study(name: str, storage: str) -> optuna.Study:
    """Open the study of that name, or create it. `storage`: a database URL, or the path of a journal file.

    Raises MissingExtra, FileProblem.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise MissingExtra("optuna", "tune", "smalltale tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        backend: optuna.storages.BaseStorage | str = storage
        if "://" not in storage:
            from optuna.storages.journal import JournalFileBackend, JournalStorage

            backend = JournalStorage(JournalFileBackend(storage))
        return optuna.create_study(
            study_name=name,
            storage=backend,
            load_if_exists=True,
            direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=os.getpid(), constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
        )
    except (OSError, ValueError, ImportError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise FileProblem(
            f"the study {name} cannot be opened at {storage} ({first_line(error)}); give the path of a journal file, "
            "sqlite:///FILE or postgresql://…"
        ) from error


def run_trials(study: optuna.Study, ranges: Sequence[SearchRange], trials: int, run: TrialRunner) -> None:
    """Run trials until the study has `trials` finished ones, including those of other machines."""
    import optuna

    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    requeue_killed_trials(study)

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("worker", [socket.gethostname(), os.getpid()])
        overrides = [format_override(search.key, search.suggest(trial)) for search in ranges]
        log.info("trial %d: %s", trial.number, " ".join(overrides))
        evaluations = 0

        def on_evaluation(_model: object, state: RunState) -> None:
            nonlocal evaluations
            if state.best_bits_per_byte is None:
                return
            evaluations += 1
            trial.report(state.best_bits_per_byte, evaluations)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            bits_per_byte = run(trial.number, overrides, on_evaluation)
        except SmalltaleError as error:
            log.warning("trial %d failed: %s", trial.number, error)
            trial.set_user_attr("trouble", str(error))
            raise optuna.TrialPruned from error
        if bits_per_byte is None:
            raise SmalltaleError(
                "the token folder has no held-out story to measure bits per byte on; encode a corpus with a val split"
            )
        return bits_per_byte

    def on_trial_end(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        done = len(study.get_trials(deepcopy=False, states=finished))
        result = "pruned" if trial.value is None else f"{trial.value:.4f} bits per byte"
        log.info("trial %d: %s (%d of %d)", trial.number, result, done, trials)
        if done >= trials:
            study.stop()

    if len(study.get_trials(deepcopy=False, states=finished)) < trials:
        study.optimize(objective, callbacks=[on_trial_end])


def requeue_killed_trials(study: optuna.Study) -> None:
    """Queue again the unfinished trials of processes on this machine that no longer run."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        host, process_id = trial.user_attrs.get("worker", ("", 0))
        if host == socket.gethostname() and not is_running(process_id):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)


def is_running(process_id: int) -> bool:
    """Whether a process of this machine is alive; signal 0 only checks, and another user's process refuses it."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
