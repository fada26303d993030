"""Does the offline referee beat a guess? Cross-validated by prompt and by model, beside a baseline that knows the model.

In: a graded file and its table of signals. Out: an Agreement for each way of holding stories out.
Beware: with three models, "by model" is three trials; its figures are honest, and few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import SmalltaleError
from smalltale.judging.gold import GradedStory
from smalltale.judging.referee import (
    Agreement,
    Floats,
    Referee,
    SignalTable,
    add_overall,
    fit_weights,
    score_columns,
)
from smalltale.ranking.statistics import spearman
from smalltale.text_signals import strip_prompt_and_end_mark

FOLDS = 10
MIN_STORIES = 60
MIN_MODELS = 3
Strings = NDArray[np.str_]
Predict = Callable[[NDArray[np.bool_]], Floats]
"""From the rows held out (mask), their predicted overall marks."""


def fit_referee(evidence: SignalTable, graded: Sequence[GradedStory], source: str) -> Referee:
    """Fitted on all graded stories, with the agreement it had on stories held out. Raises SmalltaleError."""
    check_same_stories(evidence, graded)
    marks = score_columns([each.scores for each in graded])
    models, prompts = (
        np.array([each.model for each in graded]),
        np.array([each.prompt for each in graded]),
    )
    check_enough(models, prompts)
    return replace(
        fit_weights(evidence.signals, marks, source),
        agreement=tuple(
            measure_agreement(criterion, held_out, folds, evidence.signals, marks, models)
            for held_out, folds in (("prompts", assign_folds(prompts)), ("models", models))
            for criterion in ("overall", *marks)
        ),
    )


def measure_agreement(
    criterion: str,
    held_out: str,
    folds: Strings,
    values: Floats,
    marks: Mapping[str, Floats],
    models: Strings,
) -> Agreement:
    """Predict each fold from the others by signals, and by the model's name."""
    given = add_overall(marks)[criterion]

    def by_signals(held: NDArray[np.bool_]) -> Floats:
        rest = {name: each[~held] for name, each in marks.items()}
        return fit_weights(values[~held], rest, "").predict(values[held])[criterion]

    def by_name(held: NDArray[np.bool_]) -> Floats:
        """The mean mark of a model, the held-out stories of a known one included: better than any honest guess."""
        known = {name: given[models == name].mean() for name in set(models[~held])}
        return np.array([known.get(name, given[~held].mean()) for name in models[held]])

    ours, guess = cross_validate(folds, by_signals), cross_validate(folds, by_name)
    within = [spearman(ours[models == name], given[models == name]) or 0.0 for name in sorted(set(models))]
    return Agreement(
        criterion=criterion,
        held_out=held_out,
        spearman=spearman(ours, given) or 0.0,
        within_model=float(np.mean(within)),
        error=root_mean_square(ours - given),
        guess_spearman=None if held_out == "models" else spearman(guess, given),
        guess_error=root_mean_square(guess - given),
    )


def cross_validate(folds: Strings, predict: Predict) -> Floats:
    """Predictions for every row, each made without its fold."""
    found = np.zeros(len(folds))
    for fold in sorted(set(folds)):
        held = folds == fold
        found[held] = predict(held)
    return found


def assign_folds(prompts: Strings) -> Strings:
    """Ten folds, all stories of a prompt in one."""
    order = np.random.default_rng(0).permutation(sorted(set(prompts)))
    place = {str(prompt): str(number % FOLDS) for number, prompt in enumerate(order)}
    return np.array([place[str(prompt)] for prompt in prompts])


def root_mean_square(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def check_same_stories(evidence: SignalTable, graded: Sequence[GradedStory]) -> None:
    """Raise SmalltaleError where the table was not measured from the graded file."""
    theirs = [(each.prompt, strip_prompt_and_end_mark(each.prompt, each.completion)) for each in graded]
    if list(zip(evidence.prompts, evidence.completions, strict=True)) != theirs:
        raise SmalltaleError(
            f"the table of signals ({len(evidence.prompts)} rows) was not measured from this graded file "
            f"({len(graded)} rows); run smalltale measure GRADED --signals on it"
        )


def check_enough(models: Strings, prompts: Strings) -> None:
    """Raise SmalltaleError where holding out is not possible."""
    if len(models) < MIN_STORIES or len(set(models)) < MIN_MODELS or len(set(prompts)) < FOLDS:
        raise SmalltaleError(
            f"a referee needs at least {MIN_STORIES} graded stories of {MIN_MODELS} models on {FOLDS} prompts, each row "
            f"with its model; found {len(models)} stories, {len(set(models))} models, {len(set(prompts))} prompts"
        )
