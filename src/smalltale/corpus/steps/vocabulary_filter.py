"""Reduce encyclopaedia articles to the sentences that a small child would understand.

Input: the children's vocabulary, learned from stories, and batches of articles. Output: batches of reduced articles.
Markup, lists and tables are removed first; an article with too few words left is dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from wordfreq import zipf_frequency

from smalltale.corpus.batch import Batch
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.document import SourceDocument
from smalltale.corpus.sources.catalog import Source
from smalltale.corpus.sources.pieces import read_piece, split_source
from smalltale.errors import RecipeError
from smalltale.files import read_json, read_stories, write_json

WORD = re.compile("[a-z]+(?:'[a-z]+)?")
ENDINGS = (
    ("ies", "y"), ("ied", "y"), ("ier", "y"), ("iest", "y"), ("ily", "y"), ("es", ""), ("s", ""), ("ed", ""), ("ed", "e"), ("ing", ""),
    ("ing", "e"), ("er", ""), ("er", "e"), ("est", ""), ("est", "e"), ("ly", ""), ("ful", ""), ("less", ""), ("ness", ""), ("y", ""),
    ("y", "e"), ("n't", ""), ("'s", ""), ("'ll", ""), ("'d", ""), ("'re", ""), ("'ve", ""), ("'m", ""),
)  # fmt: skip
"""Suffixes of inflected words, and what replaces each in the base form."""
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
SHARES_IN_REPORT = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7)
FREQUENT_ZIPF = 6.0
"""A word outside the vocabulary still counts as understood at this frequency (wordfreq) or above."""
SAMPLE_ARTICLES = 1_000
SAMPLE_BYTES = 64_000_000
"""How much story text the vocabulary is learned from."""


@dataclass(frozen=True)
class VocabularyFilter:
    """Step: keep the sentences of an article that a small child would understand."""

    vocabulary: frozenset[str]
    """Words that children know; their inflected forms count as understood."""
    share: float
    """The share of a sentence's words that must be understood, 0 to 1."""

    def __call__(self, batch: Batch) -> Batch:
        return batch.map_kept(self.filter_article)

    def filter_article(self, article: SourceDocument) -> SourceDocument:
        """Keep the understandable sentences, or drop the article as `stub` or `hard words`."""
        paragraphs: list[str] = []
        hard_words: list[str] = []
        total = 0
        for paragraph in extract_prose(article.text):
            sentences = []
            for sentence in SENTENCE_END.split(paragraph):
                hard, count = self.find_hard_words(sentence)
                total += count
                digits = sum(map(str.isdigit, sentence))
                if count and len(hard) <= (1 - self.share) * count and digits * 20 <= len(sentence):
                    sentences.append(sentence.strip())
                hard_words += hard
            if sentences:
                paragraphs.append(" ".join(sentences))
        text = "\n".join(paragraphs)
        if total < SMALLEST_ARTICLE_WORDS:
            return article._replace(reason="stub")
        if len(text.split()) < SMALLEST_ARTICLE_WORDS:
            return article._replace(reason="hard words", detail=" ".join(sorted(set(hard_words))[:12]))
        return article._replace(text=text)

    def find_hard_words(self, sentence: str) -> tuple[list[str], int]:
        """Return the words that a child would not understand, and the number of all words."""
        words = WORD.findall(sentence.lower())
        return [word for word in words if not self.understands(word)], len(words)

    def understands(self, word: str) -> bool:
        return (
            word in self.vocabulary
            or any(base in self.vocabulary for base in base_forms(word))
            or word_frequency(word) >= FREQUENT_ZIPF
        )


def prepare_filter(
    config: CorpusConfig, sources: Sequence[Source], state_file: Path
) -> tuple[VocabularyFilter, dict[str, Any]]:
    """Learn the vocabulary and measure shares for the report, or read both from the `state_file` of a stopped build.

    The vocabulary comes from the file `config.vocabulary`, or from the first SAMPLE_BYTES of the sources' stories.
    """
    if not state_file.exists():
        texts = read_stories(Path(config.vocabulary)) if config.vocabulary else sample_texts(config, sources)
        vocabulary = learn_vocabulary(texts)
        if not vocabulary:
            raise RecipeError(
                "simplewiki alone has no children's vocabulary to learn; add a source of stories or set corpus.vocabulary"
            )
        wiki = next(source for source in sources if source.kind == "wiki")
        piece = next(split_source(wiki, config.mark), None)
        articles = list(islice(read_piece(piece, config.mark), SAMPLE_ARTICLES)) if piece else []
        table = measure_shares(VocabularyFilter(vocabulary, config.vocabulary_share), articles)
        write_json(state_file, {"vocabulary": sorted(vocabulary), "table": table})
    state = read_json(state_file)
    return VocabularyFilter(frozenset(state["vocabulary"]), config.vocabulary_share), state["table"]


def sample_texts(config: CorpusConfig, sources: Sequence[Source]) -> Iterator[str]:
    """Yield the first SAMPLE_BYTES of the sources' stories."""
    size = 0
    for source in sources:
        if source.kind != "stories":
            continue
        for piece in split_source(source, config.mark, config.parts, config.stories):
            for document in read_piece(piece, config.mark, config.seed):
                size += len(document.text)
                yield document.text
                if size >= SAMPLE_BYTES:
                    return


def measure_shares(vocabulary_filter: VocabularyFilter, articles: Sequence[SourceDocument]) -> dict[str, Any]:
    """Measure which part of some articles each `share` keeps; the example is a sentence that the next stricter share drops."""
    sentences = [
        sentence
        for article in articles
        for paragraph in extract_prose(article.text)
        for sentence in SENTENCE_END.split(paragraph)
    ]
    total = sum(len(sentence.split()) for sentence in sentences)
    understood_shares = []
    for sentence in sentences:
        hard, count = vocabulary_filter.find_hard_words(sentence)
        understood_shares.append(1 - len(hard) / count if count else 0.0)
    settings, stricter = [], 1.01
    for share in SHARES_IN_REPORT:
        filtered = map(replace(vocabulary_filter, share=share).filter_article, articles)
        kept_texts = [article.text for article in filtered if article.reason is None]
        new = [
            sentence
            for sentence, understood in zip(sentences, understood_shares, strict=True)
            if share <= understood < stricter and len(sentence) < 200
        ]
        settings.append(
            {
                "share": share,
                "articles": round(len(kept_texts) / max(1, len(articles)), 4),
                "words": round(sum(len(text.split()) for text in kept_texts) / max(1, total), 4),
                "example": new[len(new) // 2] if new else "",
            }
        )
        stricter = share
    return {"articles": len(articles), "settings": settings}


@lru_cache(maxsize=200_000)
def word_frequency(word: str) -> float:
    """The frequency of a word in English on the Zipf scale: 3 is once in a million words, 6 once in a thousand."""
    return float(zipf_frequency(word, "en"))


def learn_vocabulary(texts: Iterable[str], smallest_share: float = 2e-6) -> frozenset[str]:
    """Return the words that occur at least twice and make at least `smallest_share` of all words."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text.lower()))
    smallest_count = max(2.0, smallest_share * sum(counts.values()))
    return frozenset(word for word, count in counts.items() if count >= smallest_count)


def base_forms(word: str) -> list[str]:
    """Return the words that `word` may be a form of: jumped -> jump, running -> run, happier -> happy."""
    bases = []
    for ending, replacement in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word[: -len(ending)]
            bases.append(stem + replacement)
            if not replacement and len(stem) > 2 and stem[-1] == stem[-2]:
                bases.append(stem[:-1])
    return bases


def extract_prose(article: str) -> list[str]:
    """Return the paragraphs of an article without markup, headings, lists, tables and end matter."""
    text = article
    if "{" in text:
        for _ in range(4):
            text, replaced = TEMPLATE.subn("", text)
            if not replaced:
                break
    text = SECTION_ENDS.split(text)[0]
    text = MARKUP.sub(lambda match: match[1] or "", LINK.sub(r"\1", TAGGED.sub("", text)))
    lines = (" ".join(line.split()) for line in BRACKETS.sub("", text).split("\n"))
    return [
        line
        for line in lines
        if not LIST_LINE.match(line)
        and "|" not in line
        and "{" not in line
        and line.endswith((".", "!", "?", '."', '!"', '?"'))
    ]
