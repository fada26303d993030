"""The vocabulary filter keeps the sentences of articles that a small child would understand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import read_corpus
from smalltale.corpus.document import SourceDocument
from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.steps.vocabulary_filter import (
    VocabularyFilter,
    base_forms,
    extract_prose,
    learn_vocabulary,
)
from smalltale.errors import RecipeError

VOCABULARY = learn_vocabulary(generate_stories(1, 3000))
EASY = (
    "A dog is an animal that likes to play and run. Dogs can see well in the dark and hear small sounds. "
    "Many people have a dog at home because dogs are kind and loyal friends."
)
HARD = "The constitution of the parliamentary republic guarantees jurisdiction. Its legislature ratifies fiscal amendments."
ARTICLE = f"""{{{{Infobox animal|name=Dog}}}}
'''Dog''' (''Canis familiaris'') is a heading without an end
{EASY.replace("dark", "[[night|dark]]")}<ref>Some book.</ref>
{HARD}
== Kinds ==
* Poodle
{{| class="wikitable"
| cell || cell
|}}
== References ==
This part is gone and it is a sentence about a dog.
"""


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("jumped", "jump"),
        ("running", "run"),
        ("happier", "happy"),
        ("cities", "city"),
        ("baked", "bake"),
        ("dog's", "dog"),
        ("wouldn't", "would"),
    ],
)
def test_inflected_words_have_a_base_form(word: str, base: str) -> None:
    assert base in base_forms(word)


def test_rare_words_of_stories_are_not_learned() -> None:
    learned = learn_vocabulary(["the cat ran and the cat sat"] * 50 + ["quantum"])
    assert learned == {"the", "cat", "ran", "and", "sat"}


def test_markup_lists_tables_and_end_matter_are_removed() -> None:
    assert extract_prose(ARTICLE) == [EASY, HARD]


def filter_text(text: str, share: float = 0.95) -> SourceDocument:
    return VocabularyFilter(VOCABULARY, share).filter_article(SourceDocument(text, "wiki:0"))


def test_easy_sentences_are_kept_and_hard_ones_removed() -> None:
    assert filter_text(ARTICLE, 0.8).text == EASY
    hard = filter_text(HARD * 5, 0.8)
    assert hard.reason == "hard words"
    assert "jurisdiction" in hard.detail
    assert filter_text("A village is a place.").reason == "stub"


def test_a_lower_share_keeps_more() -> None:
    articles = [filter_text(f"{EASY}\n{HARD}", share) for share in (1.0, 0.9, 0.7, 0.0)]
    lengths = [0 if article.reason else len(article.text) for article in articles]
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(f"{EASY}\n{HARD}")


def test_a_build_filters_wiki_articles_by_the_words_of_its_own_stories(tmp_path: Path) -> None:
    wiki = tmp_path / "wiki.jsonl"
    lines = [json.dumps({"text": text}) for text in (ARTICLE, HARD * 5, "A village is a place.")]
    wiki.write_text("\n".join(lines), encoding="utf-8")
    config = CorpusConfig(
        sources=("fable", f"simplewiki={wiki}"),
        stories=3000,
        vocabulary_share=0.8,
        schedule={"simplewiki": (0.0, 0.01), "fable": (0.5, 1.0)},
    )
    summary = build_corpus(config, tmp_path / "corpus")
    assert summary.sources["simplewiki"]["dropped"] == {"hard words": 1, "stub": 1}
    first = next(read_corpus(tmp_path / "corpus", "train"))
    assert (first.text, first.source) == (EASY, "simplewiki")
    with pytest.raises(RecipeError, match="no children's vocabulary"):
        build_corpus(CorpusConfig(sources=(f"simplewiki={wiki}",)), tmp_path / "alone")
