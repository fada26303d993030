"""The features of each completion that the offline judge scores: form, likelihood and similarity of meaning.

Input: the completions of a submission. Output: a JSONL table with one row per completion (docs/formats.md).
A prompt repeated at the beginning, and everything after the end-of-story mark, is removed before measuring.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalltale.files import write_jsonl
from smalltale.metrics.metrics import measure_completion
from smalltale.metrics.reference_models import ReferenceLanguageModel, SentenceEmbedder
from smalltale.submission import Completion
from smalltale.text_signals import (
    find_names,
    repeated_ngram_share,
    split_sentences,
    split_words,
    strip_prompt_and_end_mark,
)

log = logging.getLogger(__name__)

CAPITALISED_WORD = re.compile(r"[A-Z][a-z]+")


def write_features(path: Path, rows: Sequence[Completion]) -> None:
    """Write the features of every completion. Raises MissingExtra before any work."""
    language_model, embedder = ReferenceLanguageModel.open(), SentenceEmbedder.open()
    samples: Counter[str] = Counter()
    table: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        story = Completion(row.prompt, strip_prompt_and_end_mark(row.prompt, row.completion))
        table.append(
            {
                "prompt": row.prompt,
                "sample": samples[row.prompt],
                "completion": story.completion,
                **text_features(story),
                "reference_bits": language_model.bits_per_byte(story.prompt, story.completion),
                **semantic_features(story, embedder),
            }
        )
        samples[row.prompt] += 1
        log.info("measuring", extra={"done": number, "total": len(rows), "unit": "completions"})
    write_jsonl(path, table)


def text_features(story: Completion) -> dict[str, float]:
    """Features of the text alone."""
    words, prompt_names = split_words(story.completion), find_names(story.prompt)
    metrics = measure_completion(story, words, None)
    names_kept = prompt_names & set(CAPITALISED_WORD.findall(story.completion))
    return {
        "words": metrics.words,
        "ended": float(metrics.ended),
        "looped_sentences": metrics.looped_sentences,
        "repeated_pairs": repeated_ngram_share(words, 2),
        "variety": len(set(words)) / max(1, len(words)) ** 0.5,
        "new_words": len(set(words) - set(split_words(story.prompt))) / max(1, len(words)),
        "rare_share": metrics.rare_share,
        "names_kept": len(names_kept) / len(prompt_names) if prompt_names else 1.0,
    }


def semantic_features(story: Completion, embedder: SentenceEmbedder) -> dict[str, float]:
    """Cosine similarities: of each sentence with the most similar earlier one, and of the story with its prompt."""
    sentences = split_sentences(story.completion)
    if not sentences:
        return {"nearest_before": 0.0, "prompt_similarity": 0.0}
    vectors = embedder.embed([*sentences, story.prompt, story.completion])
    similarity = vectors[: len(sentences)] @ vectors[: len(sentences)].T
    nearest_before = [float(similarity[index, :index].max()) for index in range(1, len(sentences))]
    return {
        "nearest_before": sum(nearest_before) / len(nearest_before) if nearest_before else 0.0,
        "prompt_similarity": float(vectors[-2] @ vectors[-1]),
    }
