"""Sampled tokens, compared with a plain implementation of the same rules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalltale.errors import RecipeError
from smalltale.generation.native_decoder import load_native_library, top_k
from smalltale.generation.sampler import TOP_CANDIDATES, GenerationConfig, sample_tokens, uniform_draws

CONFIGS = st.builds(
    GenerationConfig,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, TOP_CANDIDATES, 90, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 0.99]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
)


def plain_probabilities(
    logits: list[float], seen: set[int], config: GenerationConfig
) -> list[tuple[float, int]]:
    """The probability of each token that is not cut, likeliest first: penalty, temperature, top-k, top-p and min-p, in order."""
    penalty = config.repetition_penalty
    penalised = [
        (logit / penalty if logit > 0 else logit * penalty) if token in seen else logit
        for token, logit in enumerate(logits)
    ]
    if config.temperature == 0:
        return [(1.0, max(range(len(penalised)), key=penalised.__getitem__))]
    ranked = sorted(
        ((logit / config.temperature, token) for token, logit in enumerate(penalised)), reverse=True
    )
    ranked = ranked[: config.top_k or None]
    total = sum(math.exp(logit - ranked[0][0]) for logit, _ in ranked)
    remaining: list[tuple[float, int]] = []
    for logit, token in ranked:
        probability = math.exp(logit - ranked[0][0]) / total
        reaches_min_p = not remaining or probability >= config.min_p * remaining[0][0]
        if sum(earlier for earlier, _ in remaining) < config.top_p and reaches_min_p:
            remaining.append((probability, token))
    total = sum(probability for probability, _ in remaining)
    return [(probability / total, token) for probability, token in remaining]


@settings(max_examples=300, deadline=None)
@given(
    size=st.sampled_from([2, 5, TOP_CANDIDATES, TOP_CANDIDATES + 1, 200]),
    spread=st.sampled_from([0.05, 1.0, 5.0]),
    seed=st.integers(0, 10_000),
    uniform=st.floats(0, 1, exclude_max=True),
    config=CONFIGS,
)
def test_a_token_is_sampled_as_by_the_plain_rules(
    size: int, spread: float, seed: int, uniform: float, config: GenerationConfig
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn((3, size), generator=generator)
    seen = torch.rand((3, size), generator=generator) < 0.3
    row = logits[1].double().tolist()
    seen_tokens = {token for token in range(size) if seen[1, token]}
    uniforms = torch.tensor([0.9, uniform, 0.1], dtype=torch.float64)
    result = sample_tokens(logits, uniforms, config, seen if config.repetition_penalty != 1 else None)
    sampled = int(result.ids[1])
    before = 0.0
    for probability, token in plain_probabilities(row, seen_tokens, config):
        if token == sampled:
            assert before - 1e-4 <= uniform <= before + probability + 1e-4 or config.temperature == 0
            break
        before += probability
    else:
        # Rounding in float32 may keep one more token if the sum before it is top-p, or its share is min-p, up to rounding.
        wider = GenerationConfig(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=min(1.0, config.top_p + 1e-5),
            min_p=config.min_p * (1 - 1e-5),
            repetition_penalty=config.repetition_penalty,
        )
        assert sampled in {token for _, token in plain_probabilities(row, seen_tokens, wider)}
    # log_probability is the model's own, before temperature and cuts.
    expected = row[sampled] - math.log(sum(map(math.exp, row)))
    assert float(result.log_probability[1]) == pytest.approx(expected, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 5),
    width=st.sampled_from([1, 15, 16, 100, 1_000]),
    levels=st.sampled_from([2, 1_000_000]),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_top_k_is_in_descending_order_and_takes_the_first_of_equal_numbers(
    rows: int, width: int, levels: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, min(width, 70)))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-levels, levels, (rows, width), generator=generator).float()
    sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
    values, ids = top_k(logits, k)
    assert torch.equal(values, sorted_logits[:, :k])
    if load_native_library() is not None:
        assert torch.equal(ids, order[:, :k])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40), config=CONFIGS)
def test_a_rows_token_does_not_depend_on_other_rows(seed: int, rows: int, config: GenerationConfig) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((rows, 150), generator=generator)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    together = sample_tokens(logits, uniform, config).ids.tolist()
    alone = [
        int(sample_tokens(logits[row : row + 1], uniform[row : row + 1], config).ids) for row in range(rows)
    ]
    assert together == alone


def test_samples_follow_the_probabilities_that_top_p_and_top_k_leave() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(20000, 4)
    uniform = torch.from_numpy(uniform_draws(0, "a", 0, 20_000))

    def shares(config: GenerationConfig) -> list[float]:
        ids = sample_tokens(logits, uniform, config).ids
        return [round(float((ids == token).double().mean()), 2) for token in range(4)]

    assert shares(GenerationConfig(temperature=1.0, top_p=1.0)) == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.02
    )
    assert shares(GenerationConfig(temperature=1.0, top_p=0.7)) == pytest.approx(
        [0.625, 0.375, 0, 0], abs=0.02
    )
    assert shares(GenerationConfig(temperature=1.0, top_p=1.0, min_p=0.5)) == pytest.approx(
        [0.625, 0.375, 0, 0], abs=0.02
    )
    assert shares(GenerationConfig(temperature=1.0, top_p=1.0, top_k=1)) == [1, 0, 0, 0]
    assert shares(GenerationConfig(temperature=0.0)) == [1, 0, 0, 0]


def test_uniform_draws_depend_on_seed_prompt_and_sample() -> None:
    first = uniform_draws(1, "a", 0, 5).tolist()
    assert first == uniform_draws(1, "a", 0, 9).tolist()[:5]
    assert (
        len(
            {
                tuple(first),
                *(tuple(uniform_draws(*key, 5)) for key in ((2, "a", 0), (1, "b", 0), (1, "a", 1))),
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples and max_tokens"),
        ({"max_tokens": 0}, "samples and max_tokens"),
        ({"temperature": -0.1}, "temperature and top_k"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
        ({"min_p": 1.0}, "min_p must be in"),
        ({"repetition_penalty": 0.0}, "repetition_penalty above 0"),
        ({"loop_repeats": 1}, "loop_repeats must be 0"),
        ({"best_of": 3}, "fewer than samples"),
        ({"temperature": float("nan")}, "temperature and top_k"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        GenerationConfig(**changes)  # type: ignore[arg-type]
