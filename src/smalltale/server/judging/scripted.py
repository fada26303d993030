"""A panel that scores by counting words: for the demonstration and for tests. Never a judge of quality.

In: stories. Out: opinions that are the same every time.
Beware: an edition that uses it says so on its pages; `qualified` is the caller's word, for demonstrations only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smalltale.server.judging.panel import JudgeOpinion, Story

CRITERIA = ("grammar", "creativity", "consistency", "plot")


@dataclass(frozen=True, kw_only=True)
class ScriptedPanel:
    """Scores that rise with a story's variety of words, with a little of each judge's own noise."""

    judges: Sequence[str] = ("scripted-a", "scripted-b")
    qualified: bool = True

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        for story in stories:
            words = re.findall(r"[a-z']+", story.text.lower())
            variety = len(set(words)) / len(words) if words else 0.0
            draw = hashlib.sha256(f"{judge}|{story.prompt}|{story.text}".encode()).digest()
            scores = {
                name: float(
                    round(
                        min(
                            10.0,
                            max(1.0, 1.5 + 7.0 * variety + min(len(words), 80) / 80 + draw[i] / 170 - 0.75),
                        )
                    )
                )
                for i, name in enumerate(CRITERIA)
            }
            yield JudgeOpinion(
                story_id=story.id,
                judge=judge,
                state="ok",
                overall=sum(scores.values()) / len(scores),
                scores=scores,
                age="ABCDEF"[min(5, int(variety * 6))],
                words=f"A script counted {len(words)} words, {len(set(words))} of them different. It has not read the story.",
            )
