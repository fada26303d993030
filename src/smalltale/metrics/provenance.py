"""Could this model, sampled as declared, have written these stories?

In: a Storyteller, the stories handed in with their prompts, the declared settings. Out: a Plausibility.
Beware: the yardstick is the model itself: as many stories of its own for the same prompts, with another seed, read back
from text in the same way. A story of the model's own and one handed in can then be exchanged, whatever the number type,
the tokenizer or the way of choosing the best; only what differs from that speaks against a hand-in.
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
from smalltale.generation.generate import completions
from smalltale.generation.generate import encode as encode_prompt
from smalltale.generation.language_model import Storyteller
from smalltale.generation.sampler import GenerationConfig
from smalltale.submission import Completion, normal

log = logging.getLogger(__name__)

OTHER_SEED = 7_919
"""Added to the declared seed, so that the yardstick's draws are other ones."""
MOST_PROMPTS = 60
"""Prompts looked at; of more, so many evenly spaced ones."""
SLACK = 0.01
"""Probability by which a cut may be missed: number types and machines differ in the last digits."""
Z = 4.0
"""Standard deviations from which a difference is no chance (6 in 100,000, both sides)."""
PAIRS = 0.75
"""Share of pairs, of a story handed in and one of the model's own, that must lean one way to count against a hand-in."""
IMPOSSIBLE = 0.01
"""Share of tokens that the declared settings cut off, beyond the model's own, to count against a hand-in."""


@dataclass(frozen=True, kw_only=True)
class StoryScore:
    """One story, read back under the model."""

    log_probability: float
    """Mean over its tokens, nats, before temperature and cuts."""
    impossible: float
    """Share of its tokens that the declared settings would never draw."""


@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """plausible, implausible or unproven, and the figures behind it."""

    verdict: str
    reasons: Sequence[str]
    prompts: int
    stories: int
    log_probability: float
    """Mean over the stories handed in, nats a token."""
    own_log_probability: float
    z: float
    """The difference in standard deviations, were stories exchanged at random within each prompt."""
    less_likely: float
    """Share of pairs within a prompt in which the story handed in is the less likely one; 0.5 where there is no difference."""
    impossible: float
    """Share of the tokens handed in that the declared settings cut off."""
    own_impossible: float
    regenerated: int | None
    """Stories that came out word for word with the declared seed; None where none is declared."""


def plausibility(
    teller: Storyteller,
    rows: Sequence[Completion],
    config: GenerationConfig,
    *,
    declared: bool = True,
    seeded: bool = False,
) -> Plausibility:
    """Hold stories against a model's own. declared: whether `config` is the team's word; seeded: its seed, too.

    Raises SmalltaleError where the model cannot write with these settings, or there is nothing to compare.
    """
    handed_in: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        handed_in[row.prompt].append(row.completion)
    prompts = spaced(list(handed_in), MOST_PROMPTS)
    samples = max((len(handed_in[prompt]) for prompt in prompts), default=0)
    if len(prompts) < 5:
        raise SmalltaleError(f"{len(prompts)} prompts are too few to compare; hand over at least 5")
    config = replace(config, samples=samples, best_of=max(samples, config.best_of) if config.best_of else 0)
    other = replace(config, seed=config.seed + OTHER_SEED)
    own: dict[str, list[str]] = defaultdict(list)
    for row in completions(teller, prompts, other):
        own[row.prompt].append(row.completion)
    theirs, ours = (
        scored(teller, [(prompt, text) for prompt in prompts for text in group[prompt]], config)
        for group in (handed_in, own)
    )
    counts = [(len(handed_in[prompt]), len(own[prompt])) for prompt in prompts]
    again = regenerated(teller, prompts, handed_in, config) if seeded else None
    return judged(theirs, ours, counts, declared=declared, again=again)


def spaced(prompts: list[str], most: int) -> list[str]:
    """At most so many, evenly spaced."""
    if len(prompts) <= most:
        return prompts
    return [prompts[i * len(prompts) // most] for i in range(most)]


def regenerated(
    teller: Storyteller, prompts: list[str], handed_in: dict[str, list[str]], config: GenerationConfig
) -> int:
    """How many stories the declared seed gives again, word for word."""
    again = {(row.prompt, told(row.completion)) for row in completions(teller, prompts, config)}
    return sum((prompt, told(text)) in again for prompt in prompts for text in handed_in[prompt])


def told(text: str) -> str:
    return normal(text).strip()


def judged(
    theirs: Sequence[StoryScore],
    ours: Sequence[StoryScore],
    counts: Sequence[tuple[int, int]],
    *,
    declared: bool,
    again: int | None,
) -> Plausibility:
    """The verdict. counts: stories handed in and of the model's own, prompt by prompt."""
    likely = [np.array([each.log_probability for each in group]) for group in (theirs, ours)]
    cut = [np.array([each.impossible for each in group]) for group in (theirs, ours)]
    z, below = difference(likely[0], likely[1], counts)
    z_cut, _ = difference(cut[0], cut[1], counts)
    impossible, own_impossible = float(cut[0].mean()), float(cut[1].mean())
    against, doubts = [], []
    if z < -Z and below > PAIRS:
        against.append(
            f"the model finds the stories less likely than its own in {below:.0%} of pairs (50 % expected)"
        )
    if declared and z_cut > Z and impossible - own_impossible > IMPOSSIBLE:
        against.append(
            f"the declared settings would never draw {impossible:.1%} of their tokens ({own_impossible:.1%} of its own)"
        )
    if z > Z and below < 1 - PAIRS:
        doubts.append(
            f"the model finds the stories likelier than its own in {1 - below:.0%} of pairs: they were drawn with "
            "colder settings than declared, or chosen"
        )
    if not declared:
        doubts.append(
            "no sampling settings are declared in a form that can be read; the usual ones were taken"
        )
    verdict = "implausible" if against and declared else "unproven" if against or doubts else "plausible"
    return Plausibility(
        verdict=verdict,
        reasons=(*against, *doubts),
        prompts=len(counts),
        stories=len(theirs),
        log_probability=float(likely[0].mean()),
        own_log_probability=float(likely[1].mean()),
        z=z,
        less_likely=below,
        impossible=impossible,
        own_impossible=own_impossible,
        regenerated=again,
    )


def difference(
    theirs: NDArray[np.float64], ours: NDArray[np.float64], counts: Sequence[tuple[int, int]]
) -> tuple[float, float]:
    """How far two groups are apart: z of the permutation test stratified by prompt, and the share of pairs with theirs below.

    Within a prompt of a + b values, the difference of means has variance s² (1/a + 1/b) when they are dealt out at random.
    """
    moved = variance = 0.0
    below = pairs = 0.0
    at = [0, 0]
    for a, b in counts:
        mine, own = theirs[at[0] : at[0] + a], ours[at[1] : at[1] + b]
        at = [at[0] + a, at[1] + b]
        moved += float(mine.mean() - own.mean())
        variance += float(np.concatenate((mine, own)).var(ddof=1)) * (1 / a + 1 / b)
        below += float((mine[:, None] < own[None]).sum() + 0.5 * (mine[:, None] == own[None]).sum())
        pairs += a * b
    return (moved / variance**0.5 if variance > 0 else 0.0), below / pairs


def scored(
    teller: Storyteller, stories: Sequence[tuple[str, str]], config: GenerationConfig
) -> list[StoryScore]:
    """Read stories back, (prompt, text) each, through the same decoder that writes them."""
    found: list[StoryScore | None] = [None] * len(stories)
    pairs = [split(teller, prompt, text) for prompt, text in stories]
    order = sorted(range(len(stories)), key=lambda place: -len(pairs[place][1]))
    size = config.batch or teller.batch
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        for place, score in zip(
            chosen, read_back(teller, [pairs[each] for each in chosen], config), strict=True
        ):
            found[place] = score
        log.info("reading back", extra={"done": start + len(chosen), "total": len(order), "unit": "stories"})
    return [each for each in found if each is not None]


def split(teller: Storyteller, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of what follows it, as far as the model reads. A token over the seam is the story's."""
    before, whole = encode_prompt(teller, prompt), teller.encode(prompt + text)
    shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    shared = max(1, min(shared, len(whole) - 1))
    return whole[:shared], whole[shared : teller.context]


@torch.inference_mode()
def read_back(
    teller: Storyteller, rows: Sequence[tuple[list[int], list[int]]], config: GenerationConfig
) -> list[StoryScore]:
    """Score rows, the longest story first, all at once."""
    lengths = [len(story) for _, story in rows]
    decoder = teller.decoder(len(rows), max(len(prompt) for prompt, _ in rows), max(lengths))
    logits = decoder.add([prompt for prompt, _ in rows])
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for place, (prompt, _) in enumerate(rows):
        seen[place, prompt] = True
    sums, cuts = np.zeros(len(rows)), np.zeros(len(rows))
    live = len(rows)
    for step in range(lengths[0]):
        left = sum(length > step for length in lengths[:live])
        if left < live:
            decoder.keep(list(range(left)))
            logits, seen, live = logits[:left], seen[:left], left
        ids = torch.tensor([story[step] for _, story in rows[:live]], device=logits.device)
        chosen = logits.gather(-1, ids[:, None])[:, 0]
        sums[:live] += (chosen - logits.logsumexp(-1)).double().cpu().numpy()
        cuts[:live] += cut_off(logits, ids, seen, config).cpu().numpy()
        seen[torch.arange(live, device=logits.device), ids] = True
        logits = decoder.step(ids)
    return [
        StoryScore(log_probability=total / length, impossible=cut / length)
        for total, cut, length in zip(sums.tolist(), cuts.tolist(), lengths, strict=True)
    ]


def cut_off(logits: Tensor, ids: Tensor, seen: Tensor, config: GenerationConfig) -> Tensor:
    """Whether temperature, top-k, top-p and min-p leave a token no chance, with some slack. (B,) bool."""
    if config.repetition_penalty != 1:
        penalty = config.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    probabilities = torch.softmax(logits / max(config.temperature, 1e-3), -1)
    chosen = probabilities.gather(-1, ids[:, None])
    likelier = probabilities > chosen + SLACK * chosen
    before = (probabilities * likelier).sum(-1)
    if config.top_k:
        before = before / probabilities.topk(min(config.top_k, probabilities.shape[-1])).values.sum(-1)
    gone = before >= config.top_p + SLACK
    gone |= chosen[:, 0] < (config.min_p - SLACK) * probabilities.amax(-1)
    if config.top_k:
        gone |= likelier.sum(-1) >= config.top_k + 1
    return gone
