"""Qualification: is this judge fit to rank?

In: a judge, our gold set and the attacks on it (gold.py), graded files. Out: a Report: each check with its figure, its bar
and whether it passed.
Beware: a judge that does not answer a check has not passed it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
from smalltale.ranking.statistics import auc, pearson, quadratic_kappa, spearman

MIN_ANSWERED_SHARE = 0.95
"""Least share of gold completions with a score."""


@dataclass(frozen=True, kw_only=True)
class QualificationCheck:
    """One figure against its bar; `bar` None where it is only told."""

    name: str
    value: float | None
    bar: float | None = None
    at_most: bool = False

    @property
    def passed(self) -> bool:
        if self.bar is None:
            return True
        if self.value is None:
            return False
        return self.value <= self.bar if self.at_most else self.value >= self.bar


@dataclass(frozen=True, kw_only=True)
class QualificationReport:
    """What a judge showed."""

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
    """What the checks were held against."""

    @property
    def qualified(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For qualification.json."""
        return {
            "kind": "qualification",
            "format": 1,
            "qualified": self.qualified,
            **{name: value for name, value in asdict(self).items() if name != "checks"},
            "checks": [
                {
                    "name": each.name,
                    "value": each.value,
                    "bar": each.bar,
                    "at_most": each.at_most,
                    "passed": each.passed,
                }
                for each in self.checks
            ],
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
    """Run the checks on our gold set (or another with every level for every prompt). Nothing in `out` is asked again.

    A judge that cannot tell the gold levels apart is not asked the rest, unless `whole`: it has failed already.
    """
    config, gold = config or JudgingConfig(), read_gold_stories() if gold is None else gold
    plain, attacked, marked = select_stories(gold, graded)
    said = judge_in_folder(plain, judge, rubric, out, config)
    scores = [each.overall for each in said]
    checks = [
        QualificationCheck(
            name="answered",
            value=sum(each is not None for each in scores) / len(scores),
            bar=MIN_ANSWERED_SHARE,
        ),
        *check_separation(gold, scores, rubric),
        check_length_bias(gold, scores),
    ]
    verdicts: list[PairVerdict] = []
    if all_checks or all(check.passed for check in checks):
        after = judge_in_folder(attacked, judge, rubric, out, config)
        like = judge_in_folder(marked, judge, rubric, out, config)
        again = judge_in_folder(plain, judge, rubric, out, replace(config, seed=config.seed + 1))
        with JudgementCache(out / JOURNAL) as journal:
            verdicts = compare_pairs(
                pair_good_with_dull(gold), judge, load_rubric("pairwise"), config.sampling, load_or_create_salt(out),
                retry_policy=config.retry_policy, cache=journal,
            )  # fmt: skip
        retest = measure_shared(pearson, scores, [each.overall for each in again])
        decided = [each.order_dependent for each in verdicts if each.value is not None]
        checks += [
            QualificationCheck(name="test-retest", value=retest, bar=rubric.qualification.retest),
            *check_attacks(gold, scores, after, rubric),
            *check_graded_stories(graded, like, rubric),
            QualificationCheck(
                name="verdicts that the order decides", value=float(np.mean(decided)) if decided else None
            ),
        ]
        said = [*said, *after, *like, *again]
    known = [each for each in scores if each is not None]
    rank = [-LEVELS.index(each.level) for each in gold]
    return QualificationReport(
        judge=judge.name,
        endpoint=judge.endpoint,
        rubric=rubric.name,
        rubric_hash=rubric.hash,
        checks=tuple(checks),
        calls=sum(each.calls for each in said) + sum(each.calls for each in verdicts),
        gold_mean=float(np.mean(known)) if known else None,
        gold_sd=float(np.std(known)) if known else None,
        agreement=measure_shared(spearman, scores, rank),
        states=dict(Counter(str(each.state) for each in said)),
        bar=rubric.qualification,
    )


def judge_in_folder(
    items: Sequence[Item], judge: Judge, rubric: Rubric, out: Path, config: JudgingConfig
) -> Sequence[Judgement]:
    """Judge items, saved in `out`/journal.jsonl; one Judgement for each, in order. Raises SmalltaleError."""
    with JudgementCache(out / JOURNAL) as cache:
        judged = judge_items(items, [judge], rubric, cache, config, salt=load_or_create_salt(out))
    if judged.failure is not None:
        raise judged.failure
    return judged.judgements


def select_stories(
    gold: Sequence[GoldStory], graded: Sequence[GradedStory]
) -> tuple[list[Item], list[Item], list[Item]]:
    """The gold stories, the dull ones under each attack, the graded ones."""
    plain = [Item(prompt=each.prompt, completion=each.completion, sample=0) for each in gold]
    attacked = [
        Item(prompt=each.prompt, completion=each.completion + words, sample=0)
        for words in ATTACKS.values()
        for each in gold
        if each.level == "dull"
    ]
    return (
        plain,
        attacked,
        [Item(prompt=each.prompt, completion=each.completion, sample=0) for each in graded],
    )


def pair_good_with_dull(gold: Sequence[GoldStory]) -> list[CompletionPair]:
    """A pair for each prompt."""
    texts = {(each.prompt, each.level): each.completion for each in gold}
    prompts = sorted({each.prompt for each in gold})
    return [
        CompletionPair(prompt=each, first=texts[each, "good"], second=texts[each, "dull"]) for each in prompts
    ]


def estimate_qualification(
    judge: str, rubric: Rubric, graded: Sequence[GradedStory], price: Price | None
) -> tuple[Estimate, Estimate]:
    """What a qualification would cost: all of it, and what a judge costs that cannot tell the levels apart."""
    gold = read_gold_stories()
    plain, attacked, marked = select_stories(gold, graded)
    pairs = [
        Item(prompt=each.prompt, completion=f"{each.first} {each.second}", sample=0)
        for each in pair_good_with_dull(gold)
    ]
    first = estimate_cost(judge, plain, rubric, price)
    rest = estimate_cost(judge, [*plain, *attacked, *marked], rubric, price)
    return first + rest + estimate_cost(judge, [*pairs, *pairs], load_rubric("pairwise"), price), first


def check_separation(
    gold: Sequence[GoldStory], scores: Sequence[float | None], rubric: Rubric
) -> list[QualificationCheck]:
    """The AUC of each pair of levels; the adjacent ones have a bar."""
    by_level: dict[str, list[float]] = defaultdict(list)
    for each, score in zip(gold, scores, strict=True):
        if score is not None:
            by_level[each.level].append(score)
    return [
        QualificationCheck(
            name=f"AUC {better} over {worse}",
            value=auc(by_level[better], by_level[worse]),
            bar=rubric.qualification.auc if LEVELS.index(worse) == LEVELS.index(better) + 1 else None,
        )
        for better, worse in itertools.combinations(LEVELS, 2)
    ]


def check_attacks(
    gold: Sequence[GoldStory], scores: Sequence[float | None], attacked: Sequence[Judgement], rubric: Rubric
) -> list[QualificationCheck]:
    """What each attack gains on the same dull stories."""
    plain = [score for each, score in zip(gold, scores, strict=True) if each.level == "dull"]
    checks = []
    for number, name in enumerate(ATTACKS):
        begin = number * len(plain)
        gains = [
            after.overall - before
            for before, after in zip(plain, attacked[begin : begin + len(plain)], strict=True)
            if before is not None and after.overall is not None
        ]
        value = float(np.mean(gains)) if gains else None
        checks.append(
            QualificationCheck(
                name=f"gain by attack: {name}",
                value=value,
                bar=rubric.qualification.attack_gain,
                at_most=True,
            )
        )
    return checks


def check_graded_stories(
    graded: Sequence[GradedStory], said: Sequence[Judgement], rubric: Rubric
) -> list[QualificationCheck]:
    """Agreement with another grader."""
    if not graded:
        return []
    ours, theirs = [each.overall for each in said], [each.overall for each in graded]
    checks = [
        QualificationCheck(
            name="Spearman with the graded file",
            value=measure_shared(spearman, ours, theirs),
            bar=rubric.qualification.spearman,
        )
    ]
    for name, scale in rubric.criteria.items():
        pairs = [
            (one.scores[name], two.scores[name])
            for one, two in zip(said, graded, strict=True)
            if one.scores and name in two.scores
        ]
        value = (
            quadratic_kappa([a for a, _ in pairs], [b for _, b in pairs], scale.low, scale.high)
            if pairs
            else None
        )
        checks.append(QualificationCheck(name=f"quadratic kappa, {name}", value=value))
    return checks


def check_length_bias(gold: Sequence[GoldStory], scores: Sequence[float | None]) -> QualificationCheck:
    """How much length alone explains within a level."""
    found = []
    for level in LEVELS:
        lengths = [len(re.findall(r"\w+", each.completion)) for each in gold if each.level == level]
        value = measure_shared(
            spearman,
            [score for each, score in zip(gold, scores, strict=True) if each.level == level],
            lengths,
        )
        found.append(value if value is not None else 0.0)
    return QualificationCheck(name="correlation with length, within a level", value=float(np.mean(found)))


def measure_shared(
    measure: Any, first: Sequence[float | None], second: Sequence[float | None]
) -> float | None:
    """A measure over the places where both sides have a value."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    found: float | None = measure([a for a, _ in pairs], [b for _, b in pairs]) if len(pairs) >= 3 else None
    return found
