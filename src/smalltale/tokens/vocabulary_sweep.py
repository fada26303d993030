"""Compare vocabulary sizes for each weight class by training a tokenizer of each size.

Input: a corpus folder, sizes, a model shape. Output: a VocabularySweep, written as sweep.json and sweep.png.
Pitfall: the recommendation is computed from bytes per unit of compute and parameters left for the layers, not from
trained models; `estimate_benefit` explains the formula.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from smalltale.corpus.corpus_folder import read_corpus
from smalltale.errors import FileProblem, RecipeError
from smalltale.files import atomic_folder, provenance_record, sha256_file, write_json
from smalltale.rules import Rules
from smalltale.tokens.tokenizer import TokenizerConfig, sample_stories, train_tokenizer

log = logging.getLogger(__name__)

VAL_STORIES = 5_000
WIDTH_STEP = 64
LOSS_EXPONENT = 0.34
"""How fast the loss falls with parameters (Hoffmann et al. 2022, arXiv 2203.15556, table A3)."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The proportions of a model, which is scaled in width to fill each weight class."""

    layers: int = 6
    width: int = 256
    mlp_ratio: float = 4.0
    context: int = 512

    def layer_parameters(self, width: int) -> int:
        """Return the parameters of a layer: attention and feed-forward part."""
        return round((4 + 2 * self.mlp_ratio) * width**2)

    def layers_at(self, width: int) -> int:
        """Return the number of layers of a model of this width."""
        return max(1, round(self.layers * width / self.width))


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One vocabulary size in one weight class."""

    weight_class: str
    vocabulary: int
    bytes_per_token: float
    """On validation stories, end tokens not counted."""
    layers: int
    width: int
    parameters: int
    embedding_share: float
    """The tied embedding's share of the weight class's parameter budget."""
    flops_per_byte: float
    """Training FLOPs per byte of text, forward and backward: 6 per parameter and 12·layers·width·context for attention."""
    bytes_in_context: float
    benefit: float
    """Higher is better; see `estimate_benefit`."""


@dataclass(frozen=True, kw_only=True)
class VocabularySweep:
    """All rows, and the vocabulary size recommended for each weight class."""

    rows: tuple[SweepRow, ...]
    recommended: dict[str, int]


def sweep_vocabularies(
    corpus: Path,
    sizes: list[int],
    config: TokenizerConfig,
    shape: ModelShape,
    out: Path,
    recipe: dict[str, Any] | None = None,
) -> VocabularySweep:
    """Train a tokenizer of each size on the corpus's train split and measure it on the val split.

    Raises RecipeError if no size fits a weight class, FileProblem if the val split is empty.
    """
    started = time.monotonic()
    stories = sample_stories(
        (document.text for document in read_corpus(corpus, "train")),
        config.sample_megabytes * 1_000_000,
        config.seed,
    )
    val_texts = [document.text for document in islice(read_corpus(corpus, "val"), VAL_STORIES)]
    if not any(val_texts):
        raise FileProblem(f"{corpus} has no validation story; build it with a larger corpus.validation_share")
    bytes_per_token: dict[int, float] = {}
    for done, size in enumerate(sizes):
        log.info("training tokenizers", extra={"done": done, "total": len(sizes), "unit": "sizes"})
        tokenizer = train_tokenizer(stories, replace(config, vocabulary=size))
        # A small corpus can give fewer tokens than requested.
        encoded = tokenizer.encode_batch(val_texts)
        bytes_per_token[tokenizer.vocabulary_size] = measure_bytes_per_token(encoded, val_texts)
    result = compare_vocabularies(bytes_per_token, shape, Rules())
    with atomic_folder(out) as folder:
        plot_sweep(result, folder / "sweep.png")
        write_json(folder / "sweep.json", {"shape": asdict(shape), **asdict(result)})
        record = provenance_record(
            recipe=recipe,
            inputs={"corpus": sha256_file(corpus / "meta.json")},
            counts={"sizes": len(sizes), "held_out_stories": len(val_texts)},
            seconds=time.monotonic() - started,
        )
        write_json(folder / "meta.json", {**record, "kind": "sweep", "format": 1})
    return result


def measure_bytes_per_token(encoded: list[list[int]], texts: list[str]) -> float:
    """Return the UTF-8 bytes of the texts divided by their tokens."""
    return sum(len(text.encode()) for text in texts) / max(1, sum(map(len, encoded)))


def compare_vocabularies(rate_by_size: dict[int, float], shape: ModelShape, rules: Rules) -> VocabularySweep:
    """Return a row per weight class and vocabulary size that fits it; rate_by_size: bytes per token by vocabulary size."""
    rows: list[SweepRow] = []
    recommended: dict[str, int] = {}
    for weight_class in rules.weight_classes:
        fitting = [
            row
            for size, rate in sorted(rate_by_size.items())
            if (row := fit_model(weight_class.name, weight_class.max_parameters, size, rate, shape))
        ]
        if not fitting:
            raise RecipeError(
                f"none of the vocabularies {sorted(rate_by_size)} leaves parameters for a layer within "
                f"{weight_class.max_parameters:,}; choose smaller --sizes"
            )
        rows += fitting
        recommended[weight_class.name] = max(fitting, key=lambda row: row.benefit).vocabulary
    return VocabularySweep(rows=tuple(rows), recommended=recommended)


def fit_model(
    weight_class: str, budget: int, size: int, bytes_per_token: float, shape: ModelShape
) -> SweepRow | None:
    """Return the widest model with this vocabulary within the budget; None if the layers do not fit."""

    def count_parameters(width: int) -> int:
        return size * width + shape.layers_at(width) * shape.layer_parameters(width)

    widths = range(WIDTH_STEP, 8192, WIDTH_STEP)
    width = max((width for width in widths if count_parameters(width) <= budget), default=0)
    if not width:
        return None
    layers, embedding, parameters = shape.layers_at(width), size * width, count_parameters(width)
    attention = 12 * layers * width * shape.context
    flops = (6 * parameters + attention) / bytes_per_token
    return SweepRow(
        weight_class=weight_class,
        vocabulary=size,
        bytes_per_token=bytes_per_token,
        layers=layers,
        width=width,
        parameters=parameters,
        embedding_share=embedding / budget,
        flops_per_byte=flops,
        bytes_in_context=bytes_per_token * shape.context,
        benefit=estimate_benefit(parameters - embedding, flops),
    )


def estimate_benefit(layer_parameters: int, flops_per_byte: float) -> float:
    """Estimate the benefit of a fixed amount of compute: the logs of layer parameters and of bytes seen, equally weighted.

    The reducible loss falls as parameters^-0.34 and data^-0.28 in Hoffmann et al. 2022; both exponents are near a
    third, so both count the same. Embedding parameters do not count: a look-up table of rare tokens predicts little.
    """
    return LOSS_EXPONENT * (math.log(layer_parameters) - math.log(flops_per_byte))


def plot_sweep(result: VocabularySweep, path: Path) -> None:
    """Plot bytes per token, embedding share and compute per byte by vocabulary size, one line per weight class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for name in result.recommended:
        rows = [row for row in result.rows if row.weight_class == name]
        sizes = [row.vocabulary for row in rows]
        best = sizes.index(result.recommended[name])
        for panel, factor, column in zip(
            panels, (1, 100, 1e-6), ("bytes_per_token", "embedding_share", "flops_per_byte"), strict=True
        ):
            values = [factor * getattr(row, column) for row in rows]
            (line,) = panel.plot(sizes, values, marker=".", label=name)
            panel.plot(sizes[best], values[best], marker="o", markersize=9, color=line.get_color())
    for panel, title in zip(
        panels, ("bytes per token", "embedding, % of the budget", "training MFLOPs per byte"), strict=True
    ):
        panel.set_xscale("log", base=2)
        panel.set_xlabel("vocabulary (large dot: recommended)")
        panel.set_title(title)
        panel.set_ylim(bottom=0)
    panels[-1].legend()
    figure.savefig(path, dpi=120)
