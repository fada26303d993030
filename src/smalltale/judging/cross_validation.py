"""Fit the offline referee and cross-validate it by prompt and by model, against a baseline that knows the model.

Input: graded stories and their table of signals. Output: a Referee with an Agreement per criterion and kind of fold.
Note: with three models, folds by model are only three trials.
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
"""Predicted scores of the held-out rows, which a mask selects."""


def fit_referee(table: SignalTable, graded: Sequence[GradedStory], source: str) -> Referee:
    """Fit on all graded stories, with the cross-validated agreement. Raises SmalltaleError."""
    check_same_stories(table, graded)
    scores = score_columns([story.scores for story in graded])
    models, prompts = (
        np.array([story.model for story in graded]),
        np.array([story.prompt for story in graded]),
    )
    check_enough(models, prompts)
    return replace(
        fit_weights(table.signals, scores, source),
        agreement=tuple(
            measure_agreement(criterion, held_out, folds, table.signals, scores, models)
            for held_out, folds in (("prompts", assign_folds(prompts)), ("models", models))
            for criterion in ("overall", *scores)
        ),
    )


def measure_agreement(
    criterion: str,
    held_out: str,
    folds: Strings,
    signals: Floats,
    scores: Mapping[str, Floats],
    models: Strings,
) -> Agreement:
    """Agreement of one criterion: predict each fold from the others by signals, and by the baseline."""
    targets = add_overall(scores)[criterion]

    def predict_by_signals(is_held_out: NDArray[np.bool_]) -> Floats:
        training_scores = {name: column[~is_held_out] for name, column in scores.items()}
        referee = fit_weights(signals[~is_held_out], training_scores, "")
        return referee.predict(signals[is_held_out])[criterion]

    def predict_by_model(is_held_out: NDArray[np.bool_]) -> Floats:
        """The mean score of the story's model, held-out stories included: an optimistic baseline."""
        means = {name: targets[models == name].mean() for name in set(models[~is_held_out])}
        return np.array([means.get(name, targets[~is_held_out].mean()) for name in models[is_held_out]])

    predictions = cross_validate(folds, predict_by_signals)
    baseline = cross_validate(folds, predict_by_model)
    within = [
        spearman(predictions[models == name], targets[models == name]) or 0.0 for name in sorted(set(models))
    ]
    return Agreement(
        criterion=criterion,
        held_out=held_out,
        spearman=spearman(predictions, targets) or 0.0,
        within_model=float(np.mean(within)),
        error=root_mean_square(predictions - targets),
        guess_spearman=None if held_out == "models" else spearman(baseline, targets),
        guess_error=root_mean_square(baseline - targets),
    )


def cross_validate(folds: Strings, predict: Predict) -> Floats:
    """Predictions of all rows, each by a fit without its fold."""
    predictions = np.zeros(len(folds))
    for fold in sorted(set(folds)):
        is_held_out = folds == fold
        predictions[is_held_out] = predict(is_held_out)
    return predictions


def assign_folds(prompts: Strings) -> Strings:
    """The fold of each story; all stories of a prompt are in one fold."""
    order = np.random.default_rng(0).permutation(sorted(set(prompts)))
    fold_by_prompt = {str(prompt): str(number % FOLDS) for number, prompt in enumerate(order)}
    return np.array([fold_by_prompt[str(prompt)] for prompt in prompts])


def root_mean_square(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def check_same_stories(table: SignalTable, graded: Sequence[GradedStory]) -> None:
    """Raise SmalltaleError if the table was not measured from the graded file."""
    stories = [(story.prompt, strip_prompt_and_end_mark(story.prompt, story.completion)) for story in graded]
    if list(zip(table.prompts, table.completions, strict=True)) != stories:
        raise SmalltaleError(
            f"the table of signals ({len(table.prompts)} rows) was not measured from this graded file "
            f"({len(graded)} rows); run smalltale measure GRADED --signals on it"
        )


def check_enough(models: Strings, prompts: Strings) -> None:
    """Raise SmalltaleError if there are too few stories, models or prompts for cross-validation."""
    if len(models) < MIN_STORIES or len(set(models)) < MIN_MODELS or len(set(prompts)) < FOLDS:
        raise SmalltaleError(
            f"a referee needs at least {MIN_STORIES} graded stories of {MIN_MODELS} models on {FOLDS} prompts, each row "
            f"with its model; found {len(models)} stories, {len(set(models))} models, {len(set(prompts))} prompts"
        )
