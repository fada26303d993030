"""A panel that scores by counting words, for the demonstration and for tests. It does not judge quality.

Input: stories. Output: opinions, the same in each run.
Note: the pages of an edition with this panel say that no one read the stories. `qualified` is True so that demonstrations rank.
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
    """Scores that rise with the variety of a story's words, plus noise that differs between judges."""

    judges: Sequence[str] = ("scripted-a", "scripted-b")
    qualified: bool = True

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        for story in stories:
            words = re.findall(r"[a-z']+", story.text.lower())
            variety = len(set(words)) / len(words) if words else 0.0
            noise = hashlib.sha256(f"{judge}|{story.prompt}|{story.text}".encode()).digest()
            quality = 1.5 + 7.0 * variety + min(len(words), 80) / 80
            scores = {
                name: float(round(min(10.0, max(1.0, quality + byte / 170 - 0.75))))
                for name, byte in zip(CRITERIA, noise, strict=False)
            }
            yield JudgeOpinion(
                completion_id=story.id,
                judge=judge,
                state="ok",
                overall=sum(scores.values()) / len(scores),
                scores=scores,
                age="ABCDEF"[min(5, int(variety * 6))],
                words=f"A script counted {len(words)} words, {len(set(words))} of them different. It has not read the story.",
            )
