"""What can be seen in one story without a model: loops, its ending, an echoed prompt, words meant for the judge.

In: text. Out: plain facts.
Beware: these are hints for people and warnings for contestants; none of them refuses a hand-in.
"""

from __future__ import annotations

import re
import unicodedata

SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"'”’)]*|[^.!?\n]+")
JUDGE_DIRECTED = re.compile(
    r"\b(?:ignore|disregard|forget)\b[^.\n]{0,40}\b(?:instructions?|rubric|above|previous)\b"
    r"|\b(?:as|dear|you are|you're)\s+(?:a|an|the)?\s*(?:judge|grader|evaluator)\b"
    r"|\b(?:give|rate|score|grade)\b[^.\n]{0,40}\b(?:10|ten)\b[^.\n]{0,20}"
    r"|\b(?:10\s*/\s*10|full marks|highest score|perfect score)\b"
    r"|\b(?:grammar|creativity|consistency|plot)\s*[:=]\s*\d"
    r"|<\|[a-z_]+\|>|\[/?INST\]|</?s>|\bassistant\s*:",
    re.IGNORECASE,
)


def sentences(story: str) -> list[str]:
    """The sentences of a story, white space at their ends removed."""
    found = (match.group().strip() for match in SENTENCE.finditer(story))
    return [sentence for sentence in found if sentence]


def looped_sentences(story: str) -> int:
    """How many sentences repeat an earlier one of at least four words."""
    seen: set[str] = set()
    repeated = 0
    for sentence in sentences(story):
        words = re.findall(r"\w+", sentence.lower())
        key = " ".join(words)
        if len(words) >= 4 and key in seen:
            repeated += 1
        seen.add(key)
    return repeated


def ends_properly(story: str) -> bool:
    """Whether the last sentence is finished and its quotes closed."""
    text = story.rstrip()
    last = text.splitlines()[-1] if text else ""
    closed = last.count("“") <= last.count("”") and last.count('"') % 2 == 0
    return closed and text.rstrip("\"'”’)")[-1:] in {".", "!", "?"}


def echoes_prompt(prompt: str, completion: str) -> bool:
    """Whether a completion begins with its prompt again."""
    return completion.strip().startswith(prompt.strip())


def judge_directed(story: str) -> list[str]:
    """The passages that speak to a judge instead of a child."""
    return [match.group().strip() for match in JUDGE_DIRECTED.finditer(unicodedata.normalize("NFKC", story))]


def is_visible(text: str) -> bool:
    """Whether a text has anything a reader would see."""
    return any(unicodedata.category(each)[0] in "LNPS" for each in text)
