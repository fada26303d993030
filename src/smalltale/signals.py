"""What can be seen in one story without a model: loops, its ending, an echoed prompt, words meant for the judge.

In: text. Out: plain facts.
Beware: these are hints for people and warnings for contestants; none of them refuses a hand-in.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

from smalltale.files import END_OF_STORY

SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"'”’)]*|[^.!?\n]+")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
JUDGE_DIRECTED = re.compile(
    r"\b(?:ignore|disregard|forget)\b[^.\n]{0,40}\b(?:instructions?|rubric|above|previous)\b"
    r"|\b(?:as|dear|you are|you're)\s+(?:a|an|the)?\s*(?:judge|grader|evaluator)\b"
    r"|\b(?:give|rate|score|grade|marks)\b[^.\n]{0,40}\b(?:10|ten)\b[^.\n]{0,20}"
    r"|\b(?:text|story|exercise|completion) above\b|\b(?:copy|repeat|use) th(?:e|is|ese) (?:marks?|scores?|grades?)\b"
    r"|\b(?:10\s*/\s*10|full marks|highest score|perfect score)\b"
    r"|\b(?:grammar|creativity|consistency|plot)[\"']?\s*[:=]\s*\d|\{\s*[\"'][a-z_ ]+[\"']\s*:"
    r"|<\|[a-z_]+\|>|\[/?INST\]|</?s>|\bassistant\s*:",
    re.IGNORECASE,
)

BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""What Unicode files under letters and symbols, and fonts leave empty: fillers of Hangul, the braille pattern without dots."""


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
    return quotes_closed(last) and text.rstrip("\"'”’)")[-1:] in {".", "!", "?"}


def quotes_closed(text: str) -> bool:
    """Whether every opened double quotation mark is closed."""
    return text.count("“") <= text.count("”") and text.count('"') % 2 == 0


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return WORD.findall(text.lower().replace("’", "'"))


def word_pairs(text: str) -> set[tuple[str, str]]:
    """The pairs of neighbouring words."""
    said = words(text)
    return set(itertools.pairwise(said))


def repeated_share(said: list[str], length: int = 4) -> float:
    """Share of the word runs of that length that stood earlier in the text."""
    runs = [tuple(said[place : place + length]) for place in range(len(said) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def names(text: str) -> set[str]:
    """Words that look like names: written with a capital inside a sentence, and never small in this text."""
    small = set(re.findall(r"\b[a-z]+\b", text))
    inside = re.findall(r"(?<=[a-z,] )([A-Z][a-z]+)\b", text)
    return {each for each in inside if each.lower() not in small}


def pronoun_share(text: str) -> float | None:
    """Share of she among he and she (their forms counted); None where there is neither."""
    said = words(text)
    she = sum(each in {"she", "her", "hers", "herself"} for each in said)
    he = sum(each in {"he", "him", "his", "himself"} for each in said)
    return she / (she + he) if she + he else None


def echoes_prompt(prompt: str, completion: str) -> bool:
    """Whether a completion begins with its prompt again."""
    return completion.strip().startswith(prompt.strip())


def story_alone(prompt: str, completion: str) -> str:
    """The completion without its prompt repeated before it and without what follows the end-of-story mark."""
    text = completion.strip()
    return text.removeprefix(prompt.strip()).partition(END_OF_STORY)[0].strip()


def judge_directed(story: str) -> list[str]:
    """The passages that speak to a judge instead of a child."""
    return [match.group().strip() for match in JUDGE_DIRECTED.finditer(unicodedata.normalize("NFKC", story))]


def is_visible(text: str) -> bool:
    """Whether a text has anything a reader would see."""
    return any(unicodedata.category(each)[0] in "LNPS" and each not in BLANK_LETTERS for each in text)
