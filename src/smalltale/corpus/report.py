"""Report what a corpus contains: counts, lengths, vocabulary, openings, fixes, drops and examples.

Input: a corpus folder. Output: a CorpusReport, and a self-contained HTML page.
Words and lengths are counted over the first stories of the train split, which is shuffled; other counts are exact.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from smalltale.corpus.corpus_folder import read_corpus
from smalltale.corpus.document import Document
from smalltale.corpus.steps.clean import DROP_REASONS, FIXES
from smalltale.files import atomic_file, read_json, translate_os_errors

SAMPLE_STORIES = 100_000
KEPT_EXAMPLES = 6
EXAMPLES_PER_REASON = 3
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
REASON_MEANINGS = DROP_REASONS | {
    "duplicate": "the same words as another story; the longest copy is kept",
    "near-duplicate": "shares most of its 5-word shingles with another story; the longest is kept",
    "leak": "shares a long run of words with a validation story or a prompt, or is a near duplicate of one",
    "stub": "too little prose in the article",
    "hard words": "too few sentences that a small child would understand",
}
COLOUR = "#2f6f8f"


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """What the page and the terminal show."""

    name: str
    meta: Mapping[str, Any]
    sampled: int
    """Number of stories over which words and lengths were counted."""
    words: int
    mean_words: float
    median_words: int
    lengths: Sequence[int]
    distinct: int
    growth: Sequence[tuple[int, int]]
    """(words read, distinct words so far)."""
    common_words: Sequence[tuple[str, int]]
    openings: Sequence[tuple[str, float]]
    """First four words, share of the stories that begin with them."""
    kept_examples: Sequence[Document]
    dropped: Sequence[tuple[str, str, int, Sequence[Mapping[str, str]]]]
    """Reason, meaning, count, examples."""
    fixes: Sequence[tuple[str, str, int]]
    wiki_only_words: Sequence[tuple[str, int]]
    """Words that occur in wiki articles but not in stories, most frequent first."""
    wiki_only_count: int


def make_report(folder: Path) -> CorpusReport:
    """Read a corpus folder. Raises FileProblem if it is not one."""
    meta = read_json(folder / "meta.json")
    story_words: Counter[str] = Counter()
    wiki_words: Counter[str] = Counter()
    openings: Counter[str] = Counter()
    lengths: list[int] = []
    growth: list[tuple[int, int]] = []
    examples: list[Document] = []
    total = 0
    for document in islice(read_corpus(folder, "train"), SAMPLE_STORIES):
        words = WORD.findall(document.text.lower())
        (wiki_words if document.source == "simplewiki" else story_words).update(words)
        lengths.append(len(words))
        total += len(words)
        openings[" ".join(document.text.split()[:4])] += 1
        if len(lengths) % 500 == 0 or len(lengths) <= 10:
            growth.append((total, len(story_words | wiki_words) if wiki_words else len(story_words)))
        if len(examples) < KEPT_EXAMPLES:
            examples.append(document)
    ordered = sorted(lengths)
    all_words = story_words + wiki_words
    wiki_only = Counter({word: count for word, count in wiki_words.items() if word not in story_words})
    dropped_examples = read_dropped_examples(folder)
    return CorpusReport(
        name=folder.name,
        meta=meta,
        sampled=len(lengths),
        words=total,
        mean_words=total / max(1, len(lengths)),
        median_words=ordered[len(ordered) // 2] if ordered else 0,
        lengths=lengths,
        distinct=len(all_words),
        growth=[*growth, (total, len(all_words))],
        common_words=all_words.most_common(40),
        openings=[(opening, count / len(lengths)) for opening, count in openings.most_common(15)],
        kept_examples=examples,
        dropped=[
            (reason, REASON_MEANINGS.get(reason, ""), count, dropped_examples.get(reason, []))
            for reason, count in Counter(meta.get("dropped", {})).most_common()
        ],
        fixes=[
            (rule, FIXES.get(rule, ""), count)
            for rule, count in Counter(meta.get("mended", {})).most_common()
        ],
        wiki_only_words=wiki_only.most_common(60),
        wiki_only_count=len(wiki_only),
    )


def read_dropped_examples(folder: Path) -> dict[str, list[Mapping[str, str]]]:
    """Return the first few dropped texts of each reason, shortened."""
    examples_by_reason: dict[str, list[Mapping[str, str]]] = {}
    for path in sorted((folder / "dropped").glob("*.parquet")):
        with translate_os_errors(path), pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_size=2000):
                for row in batch.to_pylist():
                    examples = examples_by_reason.setdefault(row["reason"], [])
                    if len(examples) < EXAMPLES_PER_REASON:
                        text = row["text"]
                        row["text"] = text if len(text) <= 700 else f"{text[:350]} … {text[-300:]}"
                        examples.append(row)
    return examples_by_reason


def write_report(report: CorpusReport, path: Path) -> None:
    """Write one self-contained HTML page."""
    from jinja2 import Environment, StrictUndefined

    source = (package_files("smalltale.corpus") / "report.html.jinja").read_text(encoding="utf-8")
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    plots = {"lengths": plot_lengths(report), "growth": plot_growth(report), "drops": plot_drops(report)}
    with atomic_file(path) as temporary:
        temporary.write_text(jinja.from_string(source).render(report=report, plots=plots), encoding="utf-8")


def plot_lengths(report: CorpusReport) -> str:
    longest = sorted(report.lengths)[int(0.995 * (len(report.lengths) - 1))]
    return draw_svg(
        "words in a story",
        "stories",
        lambda axes: axes.hist([min(length, longest) for length in report.lengths], bins=60, color=COLOUR),
    )


def plot_growth(report: CorpusReport) -> str:
    words, distinct = zip(*report.growth, strict=True)
    return draw_svg(
        "words read", "distinct words", lambda axes: axes.plot(words, distinct, color=COLOUR, linewidth=2)
    )


def plot_drops(report: CorpusReport) -> str:
    if not report.dropped:
        return ""
    names, _, counts, _ = zip(*reversed(report.dropped), strict=True)
    return draw_svg(
        "stories dropped",
        "",
        lambda axes: axes.bar_label(axes.barh(names, counts, color=COLOUR), fmt="{:,.0f}", padding=3),
    )


def draw_svg(x_label: str, y_label: str, draw: Callable[[Any], object]) -> str:
    """Return a small plot as an SVG element; an empty `y_label` means that the y axis shows names."""
    import matplotlib

    with matplotlib.rc_context(
        {"svg.hashsalt": "smalltale", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        if y_label:
            axes.yaxis.set_major_formatter(FuncFormatter(short_number))
        else:
            axes.margins(x=0.15)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def short_number(value: float, _: object = None) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
