"""Provenance check: could this model, sampled as declared, have generated these stories?

Input: a LanguageModel, submitted stories with their prompts, the declared settings. Output: a Plausibility.
The submitted stories are compared with as many that the model generates for the same prompts with another seed; both are
scored from their text in the same way. Without cheating the two groups are exchangeable, whatever the number type, the
tokenizer or the method of best-of-N, so only a difference between them counts against a submission.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalltale.errors import SmalltaleError
from smalltale.generation.generate import encode_prompt, generate_completions
from smalltale.generation.language_model import LanguageModel
from smalltale.generation.sampler import GenerationConfig, penalise_repetition
from smalltale.submission import Completion, normalize_prompt

log = logging.getLogger(__name__)

SEED_OFFSET = 7_919
"""Added to the declared seed for the stories to compare with."""
MIN_PROMPTS = 5
MAX_PROMPTS = 60
"""Prompts compared; of more, evenly spaced ones."""
TOLERANCE = 0.01
"""Probability by which a token may miss a cut: number types and machines differ in the last digits."""
MAX_Z = 4.0
"""Standard deviations above which a difference is significant (6 in 100,000, two-sided)."""
MAX_PAIR_SHARE = 0.75
"""Share of pairs (a submitted and a generated story) with the same sign above which a difference counts."""
MAX_IMPOSSIBLE = 0.01
"""By how much the share of tokens that the declared settings cut may exceed that of generated stories."""


@dataclass(frozen=True, kw_only=True)
class StoryLikelihood:
    """The score of one story under the model."""

    log_probability: float
    """Mean over its tokens, in nats, before temperature and cuts."""
    impossible: float
    """Share of its tokens that the declared settings would never sample."""


@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """The verdict (plausible, implausible or unproven) and the figures behind it."""

    verdict: str
    reasons: Sequence[str]
    prompts: int
    stories: int
    log_probability: float
    """Mean over the submitted stories, in nats per token."""
    own_log_probability: float
    """The same over the generated stories."""
    z: float
    """Difference of the two in standard deviations of a permutation of stories within each prompt."""
    less_likely: float
    """Share of pairs within a prompt in which the submitted story is the less likely one; 0.5 without a difference."""
    impossible: float
    """Share of the submitted tokens that the declared settings cut."""
    own_impossible: float
    regenerated: int | None
    """Stories reproduced word for word with the declared seed; None without a declared seed."""


def check_plausibility(
    model: LanguageModel,
    rows: Sequence[Completion],
    config: GenerationConfig,
    *,
    declared: bool = True,
    seeded: bool = False,
) -> Plausibility:
    """Compare stories with the model's own. declared: `config` is the team's declaration; seeded: including its seed.

    Raises SmalltaleError if the model cannot generate with these settings, or if there are too few prompts.
    """
    submitted = group_by_prompt(rows)
    prompts = evenly_spaced(list(submitted), MAX_PROMPTS)
    if len(prompts) < MIN_PROMPTS:
        raise SmalltaleError(
            f"the stories have {len(prompts)} prompts, the comparison needs at least {MIN_PROMPTS}; give more stories"
        )
    samples = max(len(submitted[prompt]) for prompt in prompts)
    config = replace(config, samples=samples, best_of=max(samples, config.best_of) if config.best_of else 0)
    other_seed = replace(config, seed=config.seed + SEED_OFFSET)
    generated = group_by_prompt(generate_completions(model, prompts, other_seed))
    submitted_scores, generated_scores = (
        score_stories(model, [(prompt, text) for prompt in prompts for text in texts[prompt]], config)
        for texts in (submitted, generated)
    )
    counts = [(len(submitted[prompt]), len(generated[prompt])) for prompt in prompts]
    regenerated = count_regenerated(model, prompts, submitted, config) if seeded else None
    return decide(submitted_scores, generated_scores, counts, declared=declared, regenerated=regenerated)


def group_by_prompt(rows: Sequence[Completion]) -> dict[str, list[str]]:
    """The completions of each prompt."""
    completions: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        completions[row.prompt].append(row.completion)
    return completions


def evenly_spaced(prompts: list[str], limit: int) -> list[str]:
    """At most `limit` prompts, evenly spaced."""
    if len(prompts) <= limit:
        return prompts
    return [prompts[i * len(prompts) // limit] for i in range(limit)]


def count_regenerated(
    model: LanguageModel, prompts: list[str], submitted: dict[str, list[str]], config: GenerationConfig
) -> int:
    """How many submitted stories the declared seed reproduces word for word."""
    generated = generate_completions(model, prompts, config)
    stories = {(row.prompt, normalize_story(row.completion)) for row in generated}
    return sum((prompt, normalize_story(text)) in stories for prompt in prompts for text in submitted[prompt])


def normalize_story(text: str) -> str:
    return normalize_prompt(text).strip()


def decide(
    submitted: Sequence[StoryLikelihood],
    generated: Sequence[StoryLikelihood],
    counts: Sequence[tuple[int, int]],
    *,
    declared: bool,
    regenerated: int | None,
) -> Plausibility:
    """The verdict. counts: submitted and generated stories per prompt, in the order of the scores."""
    log_probabilities, own_log_probabilities = (
        np.array([story.log_probability for story in stories]) for stories in (submitted, generated)
    )
    cuts, own_cuts = (np.array([story.impossible for story in stories]) for stories in (submitted, generated))
    z, less_likely = stratified_difference(log_probabilities, own_log_probabilities, counts)
    z_cuts, _ = stratified_difference(cuts, own_cuts, counts)
    impossible, own_impossible = float(cuts.mean()), float(own_cuts.mean())
    violations, doubts = [], []
    if z < -MAX_Z and less_likely > MAX_PAIR_SHARE:
        violations.append(
            f"the stories are less likely under the model than its own in {less_likely:.0%} of pairs (50 % expected)"
        )
    if declared and z_cuts > MAX_Z and impossible - own_impossible > MAX_IMPOSSIBLE:
        violations.append(
            f"the declared settings exclude {impossible:.1%} of the stories' tokens ({own_impossible:.1%} in its own stories)"
        )
    if z > MAX_Z and less_likely < 1 - MAX_PAIR_SHARE:
        doubts.append(
            f"the stories are more likely under the model than its own in {1 - less_likely:.0%} of pairs: "
            "they were sampled with colder settings than declared, or selected"
        )
    if not declared:
        doubts.append("no readable sampling settings are declared; the default settings were used")
    verdict = "plausible"
    if violations or doubts:
        verdict = "implausible" if violations and declared else "unproven"
    return Plausibility(
        verdict=verdict,
        reasons=(*violations, *doubts),
        prompts=len(counts),
        stories=len(submitted),
        log_probability=float(log_probabilities.mean()),
        own_log_probability=float(own_log_probabilities.mean()),
        z=z,
        less_likely=less_likely,
        impossible=impossible,
        own_impossible=own_impossible,
        regenerated=regenerated,
    )


def stratified_difference(
    left: NDArray[np.float64], right: NDArray[np.float64], counts: Sequence[tuple[int, int]]
) -> tuple[float, float]:
    """z of the permutation test of left minus right, stratified by prompt, and the share of pairs in which left is smaller.

    counts: numbers of left and right per prompt. Under random assignment within a prompt of a + b numbers, the difference
    of means has variance s² (1/a + 1/b).
    """
    difference = variance = smaller = pairs = 0.0
    left_start = right_start = 0
    for a, b in counts:
        left_group, right_group = left[left_start : left_start + a], right[right_start : right_start + b]
        left_start, right_start = left_start + a, right_start + b
        difference += float(left_group.mean() - right_group.mean())
        variance += float(np.concatenate((left_group, right_group)).var(ddof=1)) * (1 / a + 1 / b)
        rows, columns = left_group[:, None], right_group[None]
        smaller += float((rows < columns).sum() + 0.5 * (rows == columns).sum())
        pairs += a * b
    return (difference / variance**0.5 if variance > 0 else 0.0), smaller / pairs


def score_stories(
    model: LanguageModel, stories: Sequence[tuple[str, str]], config: GenerationConfig
) -> list[StoryLikelihood]:
    """Score (prompt, text) pairs with the decoder that generates, so that both have the same rounding."""
    encoded = [encode_story(model, prompt, text) for prompt, text in stories]
    order = sorted(range(len(stories)), key=lambda index: -len(encoded[index][1]))
    size = config.batch or model.batch
    scores: dict[int, StoryLikelihood] = {}
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        scores |= zip(indices, score_batch(model, [encoded[index] for index in indices], config), strict=True)
        log.info("scoring", extra={"done": len(scores), "total": len(order), "unit": "stories"})
    return [scores[index] for index in range(len(stories))]


def encode_story(model: LanguageModel, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of its story, up to the context length. A token that spans both belongs to the story."""
    prompt_ids, ids = encode_prompt(model, prompt), model.encode(prompt + text)
    differs = [a != b for a, b in zip(prompt_ids, ids, strict=False)]
    start = differs.index(True) if any(differs) else len(prompt_ids)
    start = max(1, min(start, len(ids) - 1))
    return ids[:start], ids[start : model.context]


@torch.inference_mode()
def score_batch(
    model: LanguageModel, rows: Sequence[tuple[list[int], list[int]]], config: GenerationConfig
) -> list[StoryLikelihood]:
    """Score (prompt ids, story ids) in one batch; the longest story comes first."""
    lengths = [len(story) for _, story in rows]
    decoder = model.decoder(len(rows), max(len(prompt) for prompt, _ in rows), max(lengths))
    logits = decoder.add([prompt for prompt, _ in rows])
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for index, (prompt, _) in enumerate(rows):
        seen[index, prompt] = True
    log_probabilities, cuts = np.zeros(len(rows)), np.zeros(len(rows))
    active = len(rows)
    for step in range(lengths[0]):
        remaining = sum(length > step for length in lengths[:active])
        if remaining < active:
            decoder.keep(list(range(remaining)))
            logits, seen, active = logits[:remaining], seen[:remaining], remaining
        ids = torch.tensor([story[step] for _, story in rows[:active]], device=logits.device)
        token_logits = logits.gather(-1, ids[:, None])[:, 0]
        log_probabilities[:active] += (token_logits - logits.logsumexp(-1)).double().cpu().numpy()
        cuts[:active] += is_cut_off(logits, ids, seen, config).cpu().numpy()
        seen[torch.arange(active, device=logits.device), ids] = True
        logits = decoder.step(ids)
    means, cut_shares = log_probabilities / np.array(lengths), cuts / np.array(lengths)
    return [
        StoryLikelihood(log_probability=mean, impossible=share)
        for mean, share in zip(means.tolist(), cut_shares.tolist(), strict=True)
    ]


def is_cut_off(logits: Tensor, ids: Tensor, seen: Tensor, config: GenerationConfig) -> Tensor:
    """Whether the settings give a token probability 0, beyond the tolerance. (B,) bool."""
    if config.repetition_penalty != 1:
        logits = penalise_repetition(logits, seen, config.repetition_penalty)
    probabilities = torch.softmax(logits / max(config.temperature, 1e-3), -1)
    token_probability = probabilities.gather(-1, ids[:, None])
    is_likelier = probabilities > token_probability + TOLERANCE * token_probability
    before = (probabilities * is_likelier).sum(-1)
    if config.top_k:
        before = before / probabilities.topk(min(config.top_k, probabilities.shape[-1])).values.sum(-1)
    is_cut = before >= config.top_p + TOLERANCE
    is_cut |= token_probability[:, 0] < (config.min_p - TOLERANCE) * probabilities.amax(-1)
    if config.top_k:
        is_cut |= is_likelier.sum(-1) >= config.top_k + 1
    return is_cut
