"""A model's own stories are plausible; those of another model and of people are not."""

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
from smalltale.corpus.fable.generator import generate_stories
from smalltale.errors import SmalltaleError
from smalltale.generation.generate import generate_completions
from smalltale.generation.language_model import NativeModel
from smalltale.generation.sampler import GenerationConfig, sample_tokens
from smalltale.metrics.declared_sampling import parse_declared_sampling
from smalltale.metrics.provenance import check_plausibility, evenly_spaced, is_cut_off, stratified_difference
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.submission import Completion, write_submission
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

TRAINING_STORIES = list(generate_stories(1, 120))
HUMAN_STORIES = list(generate_stories(2, 20))
PROMPTS = [" ".join(text.split()[:8]) for text in HUMAN_STORIES]
CONFIG = GenerationConfig(samples=2, max_tokens=40, temperature=0.8, dtype="float32", seed=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TRAINING_STORIES, TokenizerConfig(vocabulary=400))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For such small matrices the synchronisation of threads costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_model(tokenizer: Tokenizer, stories: list[str]) -> NativeModel:
    """A model trained for two seconds."""
    torch.manual_seed(0)
    shape = ModelConfig(vocabulary=tokenizer.vocabulary_size, layers=2, width=64, heads=2, context=128)
    model = Transformer(shape)
    rows = torch.tensor(
        [([tokenizer.end_id, *ids] + [tokenizer.end_id] * 65)[:65] for ids in tokenizer.encode_batch(stories)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        batch = rows[torch.randperm(len(rows))[:24]]
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return NativeModel(model.eval(), tokenizer, torch.float32)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> NativeModel:
    return train_model(tokenizer, TRAINING_STORIES)


@pytest.fixture(scope="module")
def other_model(tokenizer: Tokenizer) -> NativeModel:
    """Trained on stories of the same words in reverse order."""
    return train_model(tokenizer, [" ".join(reversed(story.split())) for story in TRAINING_STORIES])


def test_a_models_own_stories_are_plausible_and_reproducible(model: NativeModel) -> None:
    report = check_plausibility(model, generate_completions(model, PROMPTS, CONFIG), CONFIG, seeded=True)
    assert (report.verdict, report.regenerated, report.stories) == ("plausible", 40, 40), report
    assert abs(report.z) < 3
    assert report.impossible < 0.02


def test_undeclared_best_of_n_is_plausible(model: NativeModel) -> None:
    rows = generate_completions(model, PROMPTS, replace(CONFIG, best_of=6, seed=8))
    assert check_plausibility(model, rows, CONFIG).verdict == "plausible"


def test_another_models_stories_are_implausible(model: NativeModel, other_model: NativeModel) -> None:
    report = check_plausibility(model, generate_completions(other_model, PROMPTS, CONFIG), CONFIG)
    assert report.verdict == "implausible", report


def test_peoples_stories_are_implausible(model: NativeModel) -> None:
    rows = [
        Completion(prompt, text[len(prompt) :]) for prompt, text in zip(PROMPTS, HUMAN_STORIES, strict=True)
    ]
    report = check_plausibility(model, rows, CONFIG)
    assert report.verdict == "implausible", report


def test_colder_sampling_than_declared_is_unproven_not_implausible(model: NativeModel) -> None:
    rows = generate_completions(model, PROMPTS, replace(CONFIG, temperature=0.4))
    report = check_plausibility(model, rows, CONFIG)
    assert report.verdict == "unproven"
    assert "colder settings than declared" in report.reasons[0]


def test_without_declared_settings_nothing_is_implausible(
    model: NativeModel, other_model: NativeModel
) -> None:
    report = check_plausibility(
        model, generate_completions(other_model, PROMPTS, CONFIG), CONFIG, declared=False
    )
    assert report.verdict == "unproven"
    assert "no readable sampling settings are declared" in report.reasons[-1]


def test_too_few_prompts_are_refused(model: NativeModel) -> None:
    with pytest.raises(SmalltaleError, match="at least 5"):
        check_plausibility(model, [Completion(PROMPTS[0], " sat down.")], CONFIG)


def test_z_of_two_groups_from_one_distribution_is_standard_normal() -> None:
    rng = np.random.default_rng(0)
    counts = [(4, 4)] * 30
    level = np.repeat(rng.normal(size=30), 4)
    z_scores = [
        stratified_difference(level + rng.gumbel(size=120), level + rng.gumbel(size=120), counts)[0]
        for _ in range(400)
    ]
    assert abs(np.mean(z_scores)) < 0.15
    assert 0.85 < np.std(z_scores) < 1.15
    assert max(map(abs, z_scores)) < 4
    z, smaller = stratified_difference(level - 9, level, counts)
    assert z < -10
    assert smaller == 1.0
    assert stratified_difference(level * 0, level * 0, counts) == (0.0, 0.5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"top_k": 5}, {"min_p": 0.1, "top_p": 1.0}, {"repetition_penalty": 1.3}, {"top_p": 0.5, "top_k": 9}],
)
def test_sampled_tokens_are_never_cut_off_and_most_random_tokens_are(changes: dict[str, float]) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    logits = 3 * torch.randn(500, 200)
    seen = torch.rand(500, 200) < 0.1
    penalised = seen if config.repetition_penalty != 1 else None
    sampled = sample_tokens(logits, torch.rand(500, dtype=torch.float64), config, penalised).ids
    assert not is_cut_off(logits, sampled, seen, config).any()
    assert is_cut_off(logits, torch.randint(0, 200, (500,)), seen, config).float().mean() > 0.5


@pytest.mark.parametrize(
    ("text", "expected", "readable", "seeded"),
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
def test_declared_settings_are_parsed(
    text: str, expected: dict[str, float], readable: bool, seeded: bool
) -> None:
    sampling = parse_declared_sampling(text)
    assert (sampling.readable, sampling.seeded) == (readable, seeded)
    assert {key: getattr(sampling.config, key) for key in expected} == expected


def test_evenly_spaced_prompts_are_compared() -> None:
    assert evenly_spaced([str(number) for number in range(10)], 4) == ["0", "2", "5", "7"]


def test_the_command_prints_the_verdict_for_a_submission(model: NativeModel, tmp_path: Path) -> None:
    write_model(tmp_path, model.model.config, model.model.state_dict(), {})
    model.tokenizer.save(tmp_path)
    for name, rows, exit_code, output in (
        ("own", generate_completions(model, PROMPTS, CONFIG), 0, "plausible: 40 stories"),
        (
            "human",
            [Completion(prompt, " zebra quartz jumbo vex.") for prompt in PROMPTS],
            1,
            "implausible: 20 stories",
        ),
    ):
        write_submission(tmp_path / name / "s.jsonl", rows, {"sampling": asdict(CONFIG)})
        result = CliRunner().invoke(
            build_app(),
            ["provenance", str(tmp_path), "--stories", str(tmp_path / name / "s.jsonl"), "--device", "cpu"],
        )
        assert result.exit_code == exit_code, result.output
        assert result.stdout.startswith(output)
