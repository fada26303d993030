"""The next token, against the same rules written plainly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalltale.errors import RecipeError
from smalltale.generation.native_decoder import likeliest, native_library
from smalltale.generation.sampler import CANDIDATES, GenerationConfig, choose, draws

CONFIGS = st.builds(
    GenerationConfig,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, CANDIDATES, 90, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 0.99]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
)


def chances(logits: list[float], seen: set[int], config: GenerationConfig) -> list[tuple[float, int]]:
    """What each token may be drawn with, likeliest first, by the rules in their order: penalty, temperature, k, p, min-p."""
    penalty = config.repetition_penalty
    punished = [
        (each / penalty if each > 0 else each * penalty) if place in seen else each
        for place, each in enumerate(logits)
    ]
    if config.temperature == 0:
        return [(1.0, max(range(len(punished)), key=punished.__getitem__))]
    heated = sorted(((each / config.temperature, place) for place, each in enumerate(punished)), reverse=True)
    heated = heated[: config.top_k or None]
    whole = sum(math.exp(each - heated[0][0]) for each, _ in heated)
    kept: list[tuple[float, int]] = []
    for each, place in heated:
        chance = math.exp(each - heated[0][0]) / whole
        likely_enough = not kept or chance >= config.min_p * kept[0][0]
        if sum(one for one, _ in kept) < config.top_p and likely_enough:
            kept.append((chance, place))
    left = sum(chance for chance, _ in kept)
    return [(chance / left, place) for chance, place in kept]


@settings(max_examples=300, deadline=None)
@given(
    size=st.sampled_from([2, 5, CANDIDATES, CANDIDATES + 1, 200]),
    spread=st.sampled_from([0.05, 1.0, 5.0]),
    seed=st.integers(0, 10_000),
    uniform=st.floats(0, 1, exclude_max=True),
    config=CONFIGS,
)
def test_a_token_is_drawn_as_the_rules_written_plainly_draw_it(
    size: int, spread: float, seed: int, uniform: float, config: GenerationConfig
) -> None:
    chance = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn((3, size), generator=chance)
    seen = torch.rand((3, size), generator=chance) < 0.3
    row = logits[1].double().tolist()
    told = {place for place in range(size) if seen[1, place]}
    number = torch.tensor([0.9, uniform, 0.1], dtype=torch.float64)
    found = choose(logits, number, config, seen if config.repetition_penalty != 1 else None)
    picked = int(found.ids[1])
    rules = chances(row, told, config)
    before = 0.0
    for likely, place in rules:
        if place == picked:
            assert before - 1e-4 <= uniform <= before + likely + 1e-4 or config.temperature == 0
            break
        before += likely
    else:
        # float32 may see one more token where the sum of those before it is top-p, or its share min-p, but for rounding
        wider = GenerationConfig(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=min(1.0, config.top_p + 1e-5),
            min_p=config.min_p * (1 - 1e-5),
            repetition_penalty=config.repetition_penalty,
        )
        assert picked in {place for _, place in chances(row, told, wider)}
    # before temperature and cuts: the model's own log-probability
    own = row[picked] - math.log(sum(map(math.exp, row)))
    assert float(found.log_probability[1]) == pytest.approx(own, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 5),
    width=st.sampled_from([1, 15, 16, 100, 1_000]),
    levels=st.sampled_from([2, 1_000_000]),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_the_likeliest_are_found_in_order_and_of_equals_the_first(
    rows: int, width: int, levels: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, min(width, 70)))
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randint(-levels, levels, (rows, width), generator=chance).float()
    whole, order = logits.sort(dim=-1, descending=True, stable=True)
    values, ids = likeliest(logits, count)
    assert torch.equal(values, whole[:, :count])
    if native_library() is not None:
        assert torch.equal(ids, order[:, :count])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40), config=CONFIGS)
def test_a_rows_token_does_not_depend_on_the_rows_beside_it(
    seed: int, rows: int, config: GenerationConfig
) -> None:
    chance = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((rows, 150), generator=chance)
    uniform = torch.rand(rows, generator=chance, dtype=torch.float64)
    together = choose(logits, uniform, config).ids.tolist()
    alone = [
        int(choose(logits[each : each + 1], uniform[each : each + 1], config).ids) for each in range(rows)
    ]
    assert together == alone


def test_draws_follow_the_probabilities_that_top_p_and_top_k_leave() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(20000, 4)
    uniform = torch.from_numpy(draws(0, "a", 0, 20_000))

    def shares(config: GenerationConfig) -> list[float]:
        chosen = choose(logits, uniform, config).ids
        return [round(float((chosen == each).double().mean()), 2) for each in range(4)]

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


def test_draws_belong_to_seed_prompt_and_sample() -> None:
    first = draws(1, "a", 0, 5).tolist()
    assert first == draws(1, "a", 0, 9).tolist()[:5]
    assert (
        len({tuple(first), *(tuple(draws(*key, 5)) for key in ((2, "a", 0), (1, "b", 0), (1, "a", 1)))}) == 4
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
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
def test_settings_that_make_no_sense_are_named(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        GenerationConfig(**wrong)  # type: ignore[arg-type]
