"""Qualification: checks that decide whether a judge's scores may count for ranking.

Input: a judge, the gold set and its attacks (gold.py), graded stories. Output: a QualificationReport of checks, each with
its value, its bar and whether it passed.
Note: a check without a value has not passed.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from smalltale.judging.cache import JudgementCache
from smalltale.judging.config import JudgingConfig
from smalltale.judging.cost import Estimate, Price, estimate_cost
from smalltale.judging.gold import ATTACKS, LEVELS, GoldStory, GradedStory, read_gold_stories
from smalltale.judging.item import Item
from smalltale.judging.judge import Judge
from smalltale.judging.judgement import Judgement
from smalltale.judging.pairwise import CompletionPair, PairVerdict, compare_pairs
from smalltale.judging.rubric import QualificationBar, Rubric, load_rubric
from smalltale.judging.run import JOURNAL, judge_items, load_or_create_salt
from smalltale.ranking.statistics import auc, group_by_key, pearson, quadratic_kappa, spearman

MIN_ANSWERED_SHARE = 0.95
"""Least share of gold completions with a score."""


@dataclass(frozen=True)
class QualificationCheck:
    """One measured value and its bar; `bar` is None for a value that is only reported."""

    name: str
    value: float | None
    bar: float | None = None
    at_most: bool = False

    @property
    def passed(self) -> bool:
        if self.bar is None or self.value is None:
            return self.bar is None
        return self.value <= self.bar if self.at_most else self.value >= self.bar


@dataclass(frozen=True, kw_only=True)
class QualificationReport:
    """The result of a qualification, saved as qualification.json."""

    judge: str
    endpoint: str
    rubric: str
    rubric_hash: str
    checks: tuple[QualificationCheck, ...]
    calls: int
    gold_mean: float | None = None
    gold_sd: float | None = None
    """Of the overall score over the gold set, for calibration in a panel."""
    agreement: float | None = None
    """Rank correlation with the gold levels: the judge's weight in a panel."""
    states: Mapping[str, int] = field(default_factory=dict)
    bar: QualificationBar = field(default_factory=QualificationBar)

    @property
    def qualified(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The content of qualification.json."""
        return {
            "kind": "qualification",
            "format": 1,
            "qualified": self.qualified,
            **asdict(self),
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
        }


def qualify(
    judge: Judge,
    rubric: Rubric,
    out: Path,
    *,
    gold: Sequence[GoldStory] | None = None,
    graded: Sequence[GradedStory] = (),
    config: JudgingConfig | None = None,
    all_checks: bool = False,
) -> QualificationReport:
    """Check a judge on the gold set (or on `gold`, which needs every level for every prompt). Answers are cached in `out`.

    A judge that cannot separate the gold levels has failed; its other checks are skipped unless `all_checks`.
    """
    config, gold = config or JudgingConfig(), read_gold_stories() if gold is None else gold
    gold_items, attacked_items, graded_items = select_items(gold, graded)
    salt, verdicts = load_or_create_salt(out), list[PairVerdict]()
    with JudgementCache(out / JOURNAL) as cache:
        judgements = judge_or_raise(gold_items, judge, rubric, cache, config, salt)
        scores = [judgement.overall for judgement in judgements]
        valid_scores = [score for score in scores if score is not None]
        checks = [
            QualificationCheck("answered", len(valid_scores) / len(scores), MIN_ANSWERED_SHARE),
            *check_separation(gold, scores, rubric),
            check_length_bias(gold, scores),
        ]
        if all_checks or all(check.passed for check in checks):
            attacked = judge_or_raise(attacked_items, judge, rubric, cache, config, salt)
            graded_judgements = judge_or_raise(graded_items, judge, rubric, cache, config, salt)
            retest_config = replace(config, seed=config.seed + 1)
            retest = judge_or_raise(gold_items, judge, rubric, cache, retest_config, salt)
            pairwise_rubric = load_rubric("pairwise")
            verdicts = compare_pairs(pair_good_with_dull(gold), judge, pairwise_rubric, config, salt, cache)
            correlation = correlate_valid(pearson, scores, [judgement.overall for judgement in retest])
            checks += [
                QualificationCheck("test-retest", correlation, rubric.qualification.retest),
                *check_attacks(gold, scores, attacked, rubric),
                *check_graded_stories(graded, graded_judgements, rubric),
                check_order(verdicts),
            ]
            judgements += [*attacked, *graded_judgements, *retest]
    levels = [-LEVELS.index(story.level) for story in gold]
    calls = sum(judgement.calls for judgement in judgements) + sum(verdict.calls for verdict in verdicts)
    return QualificationReport(
        judge=judge.name,
        endpoint=judge.endpoint,
        rubric=rubric.name,
        rubric_hash=rubric.hash,
        checks=tuple(checks),
        calls=calls,
        gold_mean=float(np.mean(valid_scores)) if valid_scores else None,
        gold_sd=float(np.std(valid_scores)) if valid_scores else None,
        agreement=correlate_valid(spearman, scores, levels),
        states=dict(Counter(str(judgement.state) for judgement in judgements)),
        bar=rubric.qualification,
    )


def judge_or_raise(
    items: Sequence[Item],
    judge: Judge,
    rubric: Rubric,
    cache: JudgementCache,
    config: JudgingConfig,
    salt: str,
) -> list[Judgement]:
    """One judgement per item, in order. Raises SmalltaleError if the judge stopped early."""
    judged = judge_items(items, [judge], rubric, cache, config, salt=salt)
    if judged.failure is not None:
        raise judged.failure
    return list(judged.judgements)


def select_items(
    gold: Sequence[GoldStory], graded: Sequence[GradedStory]
) -> tuple[list[Item], list[Item], list[Item]]:
    """The gold stories, the dull gold stories under each attack, and the graded stories."""
    gold_items, graded_items = (
        [Item(prompt=story.prompt, completion=story.completion, sample=0) for story in stories]
        for stories in (gold, graded)
    )
    attacked_items = [
        Item(prompt=story.prompt, completion=story.completion + attack, sample=0)
        for attack in ATTACKS.values()
        for story in gold
        if story.level == "dull"
    ]
    return gold_items, attacked_items, graded_items


def pair_good_with_dull(gold: Sequence[GoldStory]) -> list[CompletionPair]:
    """The good and the dull completion of each prompt."""
    texts = {(story.prompt, story.level): story.completion for story in gold}
    return [
        CompletionPair(prompt=prompt, first=texts[prompt, "good"], second=texts[prompt, "dull"])
        for prompt in sorted({story.prompt for story in gold})
    ]


def estimate_qualification(
    rubric: Rubric, graded: Sequence[GradedStory], price: Price | None
) -> tuple[Estimate, Estimate]:
    """The cost of all checks, and of only the first ones, for a judge that cannot separate the gold levels."""
    gold = read_gold_stories()
    gold_items, attacked_items, graded_items = select_items(gold, graded)
    pair_items = [
        Item(prompt=pair.prompt, completion=f"{pair.first} {pair.second}", sample=0)
        for pair in pair_good_with_dull(gold)
    ]
    first_checks = estimate_cost(gold_items, rubric, price)
    other_checks = estimate_cost([*gold_items, *attacked_items, *graded_items], rubric, price)
    both_orders = estimate_cost([*pair_items, *pair_items], load_rubric("pairwise"), price)
    return first_checks + other_checks + both_orders, first_checks


def check_separation(
    gold: Sequence[GoldStory], scores: Sequence[float | None], rubric: Rubric
) -> list[QualificationCheck]:
    """The AUC of each pair of levels; adjacent levels have a bar."""
    by_level = group_by_key(
        (story.level, score) for story, score in zip(gold, scores, strict=True) if score is not None
    )
    return [
        QualificationCheck(
            f"AUC {better} over {worse}",
            auc(by_level.get(better, ()), by_level.get(worse, ())),
            rubric.qualification.auc if (better, worse) in itertools.pairwise(LEVELS) else None,
        )
        for better, worse in itertools.combinations(LEVELS, 2)
    ]


def check_attacks(
    gold: Sequence[GoldStory], scores: Sequence[float | None], attacked: Sequence[Judgement], rubric: Rubric
) -> list[QualificationCheck]:
    """The mean score that each attack gains on the dull stories."""
    dull_scores = [score for story, score in zip(gold, scores, strict=True) if story.level == "dull"]
    checks = []
    for number, name in enumerate(ATTACKS):
        judgements = attacked[number * len(dull_scores) : (number + 1) * len(dull_scores)]
        gains = [
            judgement.overall - score
            for score, judgement in zip(dull_scores, judgements, strict=True)
            if score is not None and judgement.overall is not None
        ]
        mean_gain = float(np.mean(gains)) if gains else None
        bar = rubric.qualification.attack_gain
        checks.append(QualificationCheck(f"gain by attack: {name}", mean_gain, bar, at_most=True))
    return checks


def check_graded_stories(
    graded: Sequence[GradedStory], judgements: Sequence[Judgement], rubric: Rubric
) -> list[QualificationCheck]:
    """Agreement with another grader."""
    if not graded:
        return []
    scores, graded_scores = (
        [judgement.overall for judgement in judgements],
        [story.overall for story in graded],
    )
    correlation = correlate_valid(spearman, scores, graded_scores)
    checks = [QualificationCheck("Spearman with the graded file", correlation, rubric.qualification.spearman)]
    for name, scale in rubric.criteria.items():
        pairs = [
            (judgement.scores[name], story.scores[name])
            for judgement, story in zip(judgements, graded, strict=True)
            if judgement.scores and name in story.scores
        ]
        first, second = [score for score, _ in pairs], [score for _, score in pairs]
        kappa = quadratic_kappa(first, second, scale.low, scale.high) if pairs else None
        checks.append(QualificationCheck(f"quadratic kappa, {name}", kappa))
    return checks


def check_length_bias(gold: Sequence[GoldStory], scores: Sequence[float | None]) -> QualificationCheck:
    """Rank correlation of score and length within a level, averaged over levels."""
    correlations = []
    for level in LEVELS:
        lengths = [len(re.findall(r"\w+", story.completion)) for story in gold if story.level == level]
        level_scores = [score for story, score in zip(gold, scores, strict=True) if story.level == level]
        correlations.append(correlate_valid(spearman, level_scores, lengths) or 0.0)
    return QualificationCheck("correlation with length, within a level", float(np.mean(correlations)))


def check_order(verdicts: Sequence[PairVerdict]) -> QualificationCheck:
    """Share of verdicts that change with the order of the two completions."""
    order_dependent = [verdict.order_dependent for verdict in verdicts if verdict.value is not None]
    share = float(np.mean(order_dependent)) if order_dependent else None
    return QualificationCheck("verdicts that the order decides", share)


def correlate_valid(
    correlation: Callable[[Sequence[float], Sequence[float]], float | None],
    first: Sequence[float | None],
    second: Sequence[float | None],
) -> float | None:
    """A correlation over the positions where both sides have a value. None for fewer than 3."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return correlation([a for a, _ in pairs], [b for _, b in pairs]) if len(pairs) >= 3 else None
