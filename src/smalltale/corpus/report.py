"""What is in a corpus: counts, lengths, vocabulary, openings, every rule's work, examples; as data and as one HTML page.

In: a corpus folder. Out: a CorpusReport; a self-contained page.
Beware: words and lengths come from the first stories of each split (they lie shuffled); counts are of the whole.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from smalltale.corpus.corpus_folder import read_corpus
from smalltale.corpus.document import Document
from smalltale.corpus.steps.clean import DROP_REASONS, FIXES
from smalltale.files import atomic_file, read_json, translate_os_errors

SAMPLE_STORIES = 100_000
KEPT_EXAMPLES = 6
DROPPED_EXAMPLES = 3
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
OTHER_REASONS = {
    "duplicate": "the same words as another story; the longest copy stays",
    "near-duplicate": "shares most of its 5-word shingles with another story; the longest stays",
    "leak": "has a long run of words in common with a validation story or a prompt, or is a near copy of one",
    "stub": "too little prose in the article",
    "hard words": "too few sentences of the article that a small child would understand",
}
COLOUR = "#2f6f8f"


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """Everything the page and the terminal show."""

    name: str
    meta: Mapping[str, Any]
    sampled: int
    """Stories that words and lengths were counted over."""
    words: int
    mean_words: float
    median_words: int
    lengths: Sequence[int]
    distinct: int
    growth: Sequence[tuple[int, int]]
    """(words read, distinct words so far)."""
    common_words: Sequence[tuple[str, int]]
    openings: Sequence[tuple[str, float]]
    """The first four words and the share of stories that begin so."""
    kept_examples: Sequence[Document]
    dropped: Sequence[tuple[str, str, int, Sequence[Mapping[str, str]]]]
    """Reason, meaning, count, examples."""
    fixes: Sequence[tuple[str, str, int]]
    wiki_only_words: Sequence[tuple[str, int]]
    """Words that the wiki part has and the stories have not, the most frequent first."""
    wiki_only_count: int


def make_report(folder: Path) -> CorpusReport:
    """Read a corpus folder. Raises FileProblem where it is none."""
    meta = read_json(folder / "meta.json")
    counts: Counter[str] = Counter()
    wiki: Counter[str] = Counter()
    openings: Counter[str] = Counter()
    lengths: list[int] = []
    growth: list[tuple[int, int]] = []
    kept: list[Document] = []
    total = 0
    for document in sample(folder):
        words = WORD.findall(document.text.lower())
        (wiki if document.source == "simplewiki" else counts).update(words)
        lengths.append(len(words))
        total += len(words)
        openings[" ".join(document.text.split()[:4])] += 1
        if len(lengths) % 500 == 0 or len(lengths) <= 10:
            growth.append((total, len(counts | wiki) if wiki else len(counts)))
        if len(kept) < KEPT_EXAMPLES:
            kept.append(document)
    ordered = sorted(lengths)
    examples = dropped_examples(folder)
    both = counts + wiki
    new = Counter({word: count for word, count in wiki.items() if word not in counts})
    return CorpusReport(
        name=folder.name,
        meta=meta,
        sampled=len(lengths),
        words=total,
        mean_words=total / max(1, len(lengths)),
        median_words=ordered[len(ordered) // 2] if ordered else 0,
        lengths=lengths,
        distinct=len(both),
        growth=[*growth, (total, len(both))],
        common_words=both.most_common(40),
        openings=[(opening, count / len(lengths)) for opening, count in openings.most_common(15)],
        kept_examples=kept,
        dropped=[
            (reason, (DROP_REASONS | OTHER_REASONS).get(reason, ""), count, examples.get(reason, []))
            for reason, count in sorted(meta.get("dropped", {}).items(), key=lambda each: -each[1])
        ],
        fixes=[
            (rule, FIXES.get(rule, ""), count)
            for rule, count in sorted(meta.get("mended", {}).items(), key=lambda each: -each[1])
        ],
        wiki_only_words=new.most_common(60),
        wiki_only_count=len(new),
    )


def sample(folder: Path) -> Iterator[Document]:
    """The first stories of the train split; the split lies shuffled unless a schedule orders it."""
    for number, document in enumerate(read_corpus(folder, "train")):
        if number >= SAMPLE_STORIES:
            return
        yield document


def dropped_examples(folder: Path) -> dict[str, list[Mapping[str, str]]]:
    """A few dropped texts for each reason, the first that were read."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for path in sorted((folder / "dropped").glob("*.parquet")):
        with translate_os_errors(path), pq.ParquetFile(path) as opened:
            for batch in opened.iter_batches(batch_size=2000):
                for row in batch.to_pylist():
                    examples = found.setdefault(row["reason"], [])
                    if len(examples) < DROPPED_EXAMPLES:
                        text = row["text"]
                        row["text"] = text if len(text) <= 700 else f"{text[:350]} … {text[-300:]}"
                        examples.append(row)
    return found


def write_report(report: CorpusReport, path: Path) -> None:
    """One HTML page that needs nothing else."""
    from jinja2 import Environment, StrictUndefined

    source = (package_files("smalltale.corpus") / "report.html.jinja").read_text(encoding="utf-8")
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    plots = {"lengths": plot_lengths(report), "growth": plot_growth(report), "drops": plot_drops(report)}
    with atomic_file(path) as temporary:
        temporary.write_text(page.render(report=report, plots=plots), encoding="utf-8")


def plot_lengths(report: CorpusReport) -> str:
    longest = sorted(report.lengths)[int(0.995 * (len(report.lengths) - 1))]
    return svg(
        "words in a story",
        "stories",
        lambda axes: axes.hist([min(each, longest) for each in report.lengths], bins=60, color=COLOUR),
    )


def plot_growth(report: CorpusReport) -> str:
    words, distinct = zip(*report.growth, strict=True)
    return svg(
        "words read", "distinct words", lambda axes: axes.plot(words, distinct, color=COLOUR, linewidth=2)
    )


def plot_drops(report: CorpusReport) -> str:
    if not report.dropped:
        return ""
    names = [reason for reason, _, _, _ in report.dropped][::-1]
    counts = [count for _, _, count, _ in report.dropped][::-1]
    return svg(
        "stories dropped",
        "",
        lambda axes: axes.bar_label(axes.barh(names, counts, color=COLOUR), fmt="{:,.0f}", padding=3),
    )


def svg(across: str, up: str, draw: Any) -> str:
    """A small plot as an SVG element."""
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
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        if up:
            axes.yaxis.set_major_formatter(FuncFormatter(short_number))
        else:
            axes.margins(x=0.15)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    return text[text.index("<svg") :]


def short_number(value: float, _: object = None) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
