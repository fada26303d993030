"""The table of signals: what can be measured of each completion, for the offline referee to read.

In: a hand-in's rows. Out: one row a completion, its text and its figures (docs/formats.md).
Beware: a prompt repeated at the beginning and whatever follows the end-of-story mark are left out before measuring.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalltale.files import write_jsonl
from smalltale.metrics.metrics import row_measures
from smalltale.metrics.reference_models import Likelihood, Meaning
from smalltale.signals import names, repeated_share, sentences, story_alone, words
from smalltale.submission import Completion

log = logging.getLogger(__name__)

CAPITAL = re.compile(r"[A-Z][a-z]+")


def write_signals(path: Path, rows: Sequence[Completion]) -> None:
    """Measure every completion into a JSONL table. Raises MissingExtra before any work."""
    likelihood, meaning = Likelihood.open(), Meaning.open()
    seen: Counter[str] = Counter()
    table: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        story = Completion(row.prompt, story_alone(row.prompt, row.completion))
        table.append(
            {
                "prompt": row.prompt,
                "sample": seen[row.prompt],
                "completion": story.completion,
                **text_signals(story),
                "reference_bits": likelihood.bits_per_byte(story.prompt, story.completion),
                **meaning_signals(story, meaning),
            }
        )
        seen[row.prompt] += 1
        log.info("measuring", extra={"done": number, "total": len(rows), "unit": "completions"})
    write_jsonl(path, table)


def text_signals(story: Completion) -> dict[str, float]:
    """What the letters show."""
    said, given = words(story.completion), names(story.prompt)
    figures = row_measures(story, said, None)
    different = len(set(said))
    return {
        "words": figures.words,
        "ended": float(figures.ended),
        "looped_sentences": figures.looped_sentences,
        "repeated_pairs": repeated_share(said, 2),
        "variety": different / max(1, len(said)) ** 0.5,
        "new_words": len(set(said) - set(words(story.prompt))) / max(1, len(said)),
        "rare_share": figures.rare_share,
        "names_kept": len(given & set(CAPITAL.findall(story.completion))) / len(given) if given else 1.0,
    }


def meaning_signals(story: Completion, meaning: Meaning) -> dict[str, float]:
    """How near each sentence is to the nearest before it (a story that turns in circles), and the story to its prompt."""
    told = sentences(story.completion)
    if not told:
        return {"nearest_before": 0.0, "prompt_similarity": 0.0}
    vectors = meaning.vectors([*told, story.prompt, story.completion])
    near = vectors[: len(told)] @ vectors[: len(told)].T
    before = [float(near[place, :place].max()) for place in range(1, len(told))]
    return {
        "nearest_before": sum(before) / len(before) if before else 0.0,
        "prompt_similarity": float(vectors[-2] @ vectors[-1]),
    }
