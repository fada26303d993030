"""Could this model have written these stories? Its own are plausible; others' and people's are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.corpus.fable import stories as fables
from smalltale.errors import SmalltaleError
from smalltale.generation.generate import completions
from smalltale.generation.language_model import Ours
from smalltale.generation.sampler import GenerationConfig, choose
from smalltale.metrics.declared_sampling import declared_settings
from smalltale.metrics.provenance import cut_off, difference, plausibility, spaced
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.submission import Completion, write_submission
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

TEXTS = list(fables(1, 120))
HUMAN = list(fables(2, 20))
PROMPTS = [" ".join(text.split()[:8]) for text in HUMAN]
CONFIG = GenerationConfig(samples=2, max_tokens=40, temperature=0.8, dtype="float32", seed=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocabulary=400))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than such small products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(tokenizer: Tokenizer, texts: list[str]) -> Transformer:
    """A model that has read some texts for two seconds."""
    torch.manual_seed(0)
    shape = ModelConfig(vocabulary=tokenizer.vocabulary, layers=2, width=64, heads=2, context=128)
    model = Transformer(shape)
    rows = torch.tensor(
        [([tokenizer.end_id, *ids] + [tokenizer.end_id] * 65)[:65] for ids in tokenizer.encode_batch(texts)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        batch = rows[torch.randperm(len(rows))[:24]]
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def teller(tokenizer: Tokenizer) -> Ours:
    return Ours(trained(tokenizer, TEXTS), tokenizer, torch.float32)


@pytest.fixture(scope="module")
def other(tokenizer: Tokenizer) -> Ours:
    """It tells stories of the same words in another order."""
    turned = [" ".join(reversed(text.split())) for text in TEXTS]
    return Ours(trained(tokenizer, turned), tokenizer, torch.float32)


def test_a_models_own_stories_are_plausible_and_come_out_again(teller: Ours) -> None:
    said = plausibility(teller, completions(teller, PROMPTS, CONFIG), CONFIG, seeded=True)
    assert (said.verdict, said.regenerated, said.stories) == ("plausible", 40, 40), said
    assert abs(said.z) < 3
    assert said.impossible < 0.02


def test_stories_chosen_as_best_of_n_and_not_declared_so_are_plausible(teller: Ours) -> None:
    rows = completions(teller, PROMPTS, replace(CONFIG, best_of=6, seed=8))
    assert plausibility(teller, rows, CONFIG).verdict == "plausible"


def test_another_models_stories_are_implausible(teller: Ours, other: Ours) -> None:
    said = plausibility(teller, completions(other, PROMPTS, CONFIG), CONFIG)
    assert said.verdict == "implausible", said


def test_peoples_stories_are_implausible(teller: Ours) -> None:
    rows = [Completion(p, text[len(p) :]) for p, text in zip(PROMPTS, HUMAN, strict=True)]
    said = plausibility(teller, rows, CONFIG)
    assert said.verdict == "implausible", said


def test_colder_stories_than_declared_are_doubted_and_not_called_implausible(teller: Ours) -> None:
    rows = completions(teller, PROMPTS, replace(CONFIG, temperature=0.4))
    said = plausibility(teller, rows, CONFIG)
    assert said.verdict == "unproven"
    assert "colder settings than declared" in said.reasons[0]


def test_without_declared_settings_nothing_is_called_implausible(teller: Ours, other: Ours) -> None:
    said = plausibility(teller, completions(other, PROMPTS, CONFIG), CONFIG, declared=False)
    assert said.verdict == "unproven"
    assert "no sampling settings are declared" in said.reasons[-1]


def test_too_few_prompts_are_not_compared(teller: Ours) -> None:
    with pytest.raises(SmalltaleError, match="at least 5"):
        plausibility(teller, [Completion(PROMPTS[0], " sat down.")], CONFIG)


def test_stories_of_one_source_are_told_apart_by_chance_alone() -> None:
    rng = np.random.default_rng(0)
    counts = [(4, 4)] * 30
    level = np.repeat(rng.normal(size=30), 4)
    found = [
        difference(level + rng.gumbel(size=120), level + rng.gumbel(size=120), counts)[0] for _ in range(400)
    ]
    assert abs(np.mean(found)) < 0.15
    assert 0.85 < np.std(found) < 1.15
    assert max(map(abs, found)) < 4
    z, below = difference(level - 9, level, counts)
    assert z < -10
    assert below == 1.0
    assert difference(level * 0, level * 0, counts) == (0.0, 0.5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"top_k": 5}, {"min_p": 0.1, "top_p": 1.0}, {"repetition_penalty": 1.3}, {"top_p": 0.5, "top_k": 9}],
)
def test_what_the_sampler_draws_is_never_cut_off_and_much_else_is(changes: dict[str, float]) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    logits = 3 * torch.randn(500, 200)
    seen = torch.rand(500, 200) < 0.1
    penalised = seen if config.repetition_penalty != 1 else None
    drawn = choose(logits, torch.rand(500, dtype=torch.float64), config, penalised).ids
    assert not cut_off(logits, drawn, seen, config).any()
    assert cut_off(logits, torch.randint(0, 200, (500,)), seen, config).float().mean() > 0.5


@pytest.mark.parametrize(
    ("text", "named", "readable", "seeded"),
    [
        ("temperature 0.8, top-p 0.95", {"temperature": 0.8, "top_p": 0.95, "top_k": 0}, True, False),
        (
            "Top_K=40; Temperature: 1; seed 7",
            {"temperature": 1, "top_p": 1.0, "top_k": 40, "seed": 7},
            True,
            True,
        ),
        (json.dumps(asdict(CONFIG)), {"temperature": 0.8, "max_tokens": 40, "seed": 3}, True, True),
        ('{"temperature": 0.6, "unheard_of": 1}', {"temperature": 0.6, "top_p": 1.0}, True, False),
        ("nucleus sampling", {"temperature": 0.7}, False, False),
        ("temperature 0.8, top-p 7", {"temperature": 0.7}, False, False),
        ('["temperature"]', {}, False, False),
        ("", {}, False, False),
    ],
)
def test_settings_are_read_as_they_are_declared(
    text: str, named: dict[str, float], readable: bool, seeded: bool
) -> None:
    found = declared_settings(text)
    assert (found.readable, found.seeded) == (readable, seeded)
    assert {key: getattr(found.config, key) for key in named} == named


def test_of_many_prompts_evenly_spaced_ones_are_looked_at() -> None:
    assert spaced([str(n) for n in range(10)], 4) == ["0", "2", "5", "7"]


def test_the_command_says_it_of_a_folder_and_a_hand_in(teller: Ours, tmp_path: Path) -> None:
    write_model(tmp_path, teller.model.config, teller.model.state_dict(), {})
    teller.tokenizer.save(tmp_path)
    for name, rows, code, word in (
        ("own", completions(teller, PROMPTS, CONFIG), 0, "plausible: 40 stories"),
        ("human", [Completion(p, " zebra quartz jumbo vex.") for p in PROMPTS], 1, "implausible: 20 stories"),
    ):
        write_submission(tmp_path / name / "s.jsonl", rows, {"sampling": asdict(CONFIG)})
        said = CliRunner().invoke(
            build_app(),
            ["plausible", str(tmp_path), "--stories", str(tmp_path / name / "s.jsonl"), "--device", "cpu"],
        )
        assert said.exit_code == code, said.output
        assert said.stdout.startswith(word)
