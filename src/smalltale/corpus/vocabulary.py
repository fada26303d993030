"""Guard a corpus of stories for small children against words that they would not understand.

In: the children's words, learned from stories, and encyclopaedia articles. Out: the sentences that a child could read.
Beware: an article loses its markup, lists and tables first; what is left of a stub is dropped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from wordfreq import zipf_frequency

WORD = re.compile("[a-z]+(?:'[a-z]+)?")
ENDINGS = (
    ("ies", "y"), ("ied", "y"), ("ier", "y"), ("iest", "y"), ("ily", "y"), ("es", ""), ("s", ""), ("ed", ""), ("ed", "e"), ("ing", ""),
    ("ing", "e"), ("er", ""), ("er", "e"), ("est", ""), ("est", "e"), ("ly", ""), ("ful", ""), ("less", ""), ("ness", ""), ("y", ""),
    ("y", "e"), ("n't", ""), ("'s", ""), ("'ll", ""), ("'d", ""), ("'re", ""), ("'ve", ""), ("'m", ""),
)  # fmt: skip
LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{\|.*?\|\}", re.DOTALL)
TAGGED = re.compile(r"<ref[^<>]*/>|<ref[^<>]*>.*?</ref>|<!--.*?-->|<[^<>]{1,200}>", re.DOTALL)
MARKUP = re.compile(r"'{2,}|__[A-Z]+__|\[https?://\S* ?([^\]]*)\]|https?://\S+")
BRACKETS = re.compile(r"\s*\((?:[^()]|\([^()]*\))*\)|\[\d+\]")
LIST_LINE = re.compile(r"\s*(?:[*#:;|!=+•·–-]|\d+[.)]\s|={2,})")
SECTION_ENDS = re.compile(
    r"\n\s*=*\s*(?:References|Other websites|Related pages|Notes|Sources|Further reading|Gallery|Bibliography|See also)\s*=*\s*(?:\n|$)",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
SMALLEST_ARTICLE_WORDS = 25
DEFAULT_SHARE = 0.95
DIAL = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7)


class Guarded(NamedTuple):
    """What the guard left of an article."""

    text: str
    reason: str | None
    """Why nothing is left: `stub` or `hard words`."""
    detail: str
    """Some of the words that were too hard."""


@dataclass(frozen=True)
class Guard:
    """Keeps what a small child would understand."""

    known: frozenset[str]
    """The children's words and their word families' heads."""
    share: float = DEFAULT_SHARE
    """The dial: the share of a sentence's words that must be understood, 0 to 1."""
    zipf: float = 6.0
    """A word outside the children's vocabulary still counts as understood at this frequency (wordfreq) or above."""
    names: bool = False
    """Whether a capitalised word within a sentence counts as understood."""

    def understood(self, word: str) -> bool:
        return (
            word in self.known
            or any(head in self.known for head in family(word))
            or frequency(word) >= self.zipf
        )

    def hard_words(self, sentence: str) -> tuple[list[str], int]:
        """The words a child would not understand, and how many words there are."""
        words = WORD.findall(sentence.lower())
        return [word for word in words if not self.understood(word)], len(words)

    def article(self, text: str) -> Guarded:
        """The sentences of an article that stay."""
        kept: list[str] = []
        hard: list[str] = []
        total = 0
        for paragraph in prose(text):
            sentences = []
            for sentence in SENTENCE_END.split(paragraph):
                unknown, count = self.hard_words(sentence)
                total += count
                digits = sum(map(str.isdigit, sentence))
                if count and len(unknown) <= (1 - self.share) * count and digits * 20 <= len(sentence):
                    sentences.append(sentence.strip())
                hard += unknown
            if sentences:
                kept.append(" ".join(sentences))
        left = "\n".join(kept)
        if total < SMALLEST_ARTICLE_WORDS:
            return Guarded("", "stub", "")
        if len(left.split()) < SMALLEST_ARTICLE_WORDS:
            return Guarded("", "hard words", " ".join(sorted(set(hard))[:12]))
        return Guarded(left, None, "")

    def save(self, path: Path) -> None:
        value = {"known": sorted(self.known), "share": self.share, "zipf": self.zipf}
        path.write_text(json.dumps(value), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Guard:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Guard(frozenset(value["known"]), value["share"], value["zipf"])


def dial_table(guard: Guard, articles: Sequence[str]) -> dict[str, Any]:
    """What each setting of the dial keeps of some articles, and a sentence that it lets in and the one above does not."""
    sentences = [
        sentence
        for text in articles
        for paragraph in prose(text)
        for sentence in SENTENCE_END.split(paragraph)
    ]
    total = sum(len(sentence.split()) for sentence in sentences)
    shares = []
    for sentence in sentences:
        unknown, count = guard.hard_words(sentence)
        shares.append(1 - len(unknown) / count if count else 0.0)
    settings, above = [], 1.01
    for share in DIAL:
        turned = replace(guard, share=share)
        kept = [each for each in map(turned.article, articles) if each.reason is None]
        new = [
            s
            for s, understood in zip(sentences, shares, strict=True)
            if share <= understood < above and len(s) < 200
        ]
        settings.append(
            {
                "share": share,
                "articles": round(len(kept) / max(1, len(articles)), 4),
                "words": round(sum(len(each.text.split()) for each in kept) / max(1, total), 4),
                "example": new[len(new) // 2] if new else "",
            }
        )
        above = share
    return {"articles": len(articles), "settings": settings}


@lru_cache(maxsize=200_000)
def frequency(word: str) -> float:
    """How common a word is in English, on the Zipf scale: 3 is once in a million words, 6 once in a thousand."""
    return float(zipf_frequency(word, "en"))


def learn_words(texts: Iterable[str], at_least: float = 2e-6) -> frozenset[str]:
    """The children's vocabulary: the words of stories that make at least a share `at_least` of all, twice at least."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text.lower()))
    floor = max(2.0, at_least * sum(counts.values()))
    return frozenset(word for word, count in counts.items() if count >= floor)


def family(word: str) -> list[str]:
    """Words that `word` may be a form of: jumped -> jump, running -> run, happier -> happy."""
    heads = []
    for ending, instead in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word[: -len(ending)]
            heads.append(stem + instead)
            if not instead and len(stem) > 2 and stem[-1] == stem[-2]:
                heads.append(stem[:-1])
    return heads


def prose(article: str) -> list[str]:
    """The paragraphs of an article without markup, headings, lists, tables and end matter."""
    text = article
    if "{" in text:
        for _ in range(4):
            text, replaced = TEMPLATE.subn("", text)
            if not replaced:
                break
    text = SECTION_ENDS.split(text)[0]
    text = MARKUP.sub(lambda found: found[1] or "", LINK.sub(r"\1", TAGGED.sub("", text)))
    text = BRACKETS.sub("", text)
    paragraphs = []
    for line in text.split("\n"):
        line = " ".join(line.split())
        if (
            LIST_LINE.match(line)
            or "|" in line
            or "{" in line
            or not line.endswith((".", "!", "?", '."', '!"', '?"'))
        ):
            continue
        paragraphs.append(line)
    return paragraphs
