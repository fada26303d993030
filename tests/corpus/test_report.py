"""The report of a corpus as an HTML page and in the terminal."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smalltale.cli import corpus as verbs
from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.report import make_report, short_number, write_report
from smalltale.errors import FileProblem
from smalltale.files import END_OF_STORY

STORIES = list(generate_stories(1, 300))
WIKI = "A dog is an animal that likes to run and play in the park with you all day. A zebu is an animal too. It is big and it has a soft nose and a long tail. It can eat grass all day."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    texts = [*STORIES, STORIES[0], STORIES[1][:-9], "<b onload=x>hi</b>. " + STORIES[2], "Short & sweet."]
    (root / "t.txt").write_text(f"\n{END_OF_STORY}\n".join(texts), encoding="utf-8")
    (root / "w.jsonl").write_text(json.dumps({"text": WIKI}), encoding="utf-8")
    config = CorpusConfig(
        sources=(str(root / "t.txt"), f"simplewiki={root / 'w.jsonl'}"),
        vocabulary_share=0.7,
        validation_share=0.05,
    )
    build_corpus(config, root / "corpus")
    return root / "corpus"


def test_the_counts_match_the_corpus(folder: Path) -> None:
    report = make_report(folder)
    assert report.sampled == report.meta["counts"]["train_stories"] == len(report.lengths)
    assert sum(report.lengths) == report.words == report.growth[-1][0]
    assert report.growth[-1][1] == report.distinct
    assert {reason: count for reason, _, count, _ in report.dropped} == {
        "duplicate": 1,
        "truncated": 1,
        "html": 1,
        "very short": 1,
    }
    assert all(meaning and examples for _, meaning, _, examples in report.dropped)
    assert "animal" in dict(report.wiki_only_words)


def test_the_page_is_self_contained_and_escapes_story_text(folder: Path, tmp_path: Path) -> None:
    write_report(make_report(folder), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b onload" not in page
    assert "&lt;b onload" in page
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="https?:|@import|url\(http|<script', page)
    open_tags: list[str] = []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag: str, attributes: object) -> None:
            if tag not in ("meta", "br", "link"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attributes: object) -> None:
            pass

    Nesting().feed(page)
    assert open_tags == []


def test_the_same_corpus_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(make_report(folder), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_commands_build_and_report(tmp_path: Path) -> None:
    app = typer.Typer()
    verbs.add_to(app)
    (tmp_path / "small.toml").write_text("[corpus]\nstories = 200\nvalidation_share = 0.1\n")
    runner = CliRunner()
    built = runner.invoke(
        app,
        [
            "corpus",
            "build",
            str(tmp_path / "small.toml"),
            "--out",
            str(tmp_path / "c"),
            "--source",
            "fable",
            "--set",
            "corpus.seed=3",
        ],
    )
    assert built.exit_code == 0, built.output
    assert "train and" in built.output
    reported = runner.invoke(app, ["corpus", "report", str(tmp_path / "c")])
    assert reported.exit_code == 0, reported.output
    assert "distinct words" in reported.output
    assert (tmp_path / "c" / "report.html").exists()


def test_a_missing_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        make_report(tmp_path / "none")


def test_numbers_are_shortened() -> None:
    assert [short_number(number) for number in (0, 12, 1500, 2_300_000, 4e9)] == [
        "0",
        "12",
        "1.5k",
        "2.3M",
        "4G",
    ]
