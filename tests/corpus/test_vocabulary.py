"""The guard: articles become sentences that a small child would understand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smalltale.corpus.build import CorpusConfig, build_corpus, read_corpus
from smalltale.corpus.fable import stories
from smalltale.corpus.vocabulary import Guard, family, learn_words, prose
from smalltale.errors import RecipeError

KNOWN = learn_words(stories(1, 3000))
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
    ("word", "head"),
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
def test_word_families_have_a_head(word: str, head: str) -> None:
    assert head in family(word)


def test_rare_words_of_stories_are_not_learned() -> None:
    learned = learn_words(["the cat ran and the cat sat"] * 50 + ["quantum"])
    assert learned == {"the", "cat", "ran", "and", "sat"}


def test_markup_lists_tables_and_end_matter_go() -> None:
    assert prose(ARTICLE) == [EASY, HARD]


def test_easy_sentences_stay_and_hard_ones_go() -> None:
    assert Guard(KNOWN, 0.8).article(ARTICLE).text == EASY
    hard = Guard(KNOWN, 0.8).article(HARD * 5)
    assert hard.reason == "hard words"
    assert "jurisdiction" in hard.detail
    assert Guard(KNOWN).article("A village is a place.").reason == "stub"


def test_the_dial_lets_more_through_as_it_falls() -> None:
    kept = [len(Guard(KNOWN, share).article(f"{EASY}\n{HARD}").text) for share in (1.0, 0.9, 0.7, 0.0)]
    assert kept == sorted(kept)
    assert kept[-1] == len(f"{EASY}\n{HARD}")


def test_a_guard_reads_back_as_saved(tmp_path: Path) -> None:
    guard = Guard(KNOWN, 0.8)
    guard.save(tmp_path / "guard.json")
    assert Guard.load(tmp_path / "guard.json") == guard


def test_a_build_guards_wiki_by_the_words_of_its_own_stories(tmp_path: Path) -> None:
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
