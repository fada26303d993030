"""Which vocabulary suits a parameter budget: train several sizes, and show what each costs and saves.

In: a corpus folder, sizes, a model shape. Out: a Sweep, written as sweep.json and sweep.png.
Beware: the recommendation rests on arithmetic (text seen per unit of compute, weights left for the layers), not on
trained models; its weights are named in `benefit`.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from smalltale.corpus.build import read_corpus
from smalltale.errors import FileProblem, RecipeError
from smalltale.files import new_folder, provenance, sha256_of, write_json
from smalltale.rules import Rules
from smalltale.tokens.tokenizer import TokenizerConfig, sample, train_tokenizer

log = logging.getLogger(__name__)

HELD_OUT_STORIES = 5_000
WIDTH_STEP = 64
LOSS_EXPONENT = 0.34
"""How fast the loss falls with parameters (Hoffmann et al. 2022, arXiv 2203.15556, table A3)."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The proportions of a model; each weight class is filled with a wider or narrower one of the same."""

    layers: int = 6
    width: int = 256
    mlp_ratio: float = 4.0
    context: int = 512

    def layer_parameters(self, width: int) -> int:
        """Weights of a layer: attention and feed-forward part."""
        return round((4 + 2 * self.mlp_ratio) * width**2)

    def layers_at(self, width: int) -> int:
        """Layers of a model so wide."""
        return max(1, round(self.layers * width / self.width))


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One vocabulary in one weight class."""

    weight_class: str
    vocabulary: int
    bytes_per_token: float
    """On held-out stories, end tokens not counted."""
    layers: int
    width: int
    parameters: int
    embedding_share: float
    """The tied embedding's share of the class's budget."""
    flops_per_byte: float
    """Forward and backward pass of training, 6 a weight and 12·layers·width·context of attention, a byte of text."""
    bytes_in_context: float
    benefit: float
    """Higher is better: see `benefit`."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All rows, and the vocabulary recommended for each weight class."""

    rows: tuple[SweepRow, ...]
    recommended: dict[str, int]


def sweep(
    corpus: Path,
    sizes: list[int],
    config: TokenizerConfig,
    shape: ModelShape,
    out: Path,
    recipe: dict[str, Any] | None = None,
) -> Sweep:
    """Train a tokenizer of each size on the corpus's train split and measure it on the val split.

    Raises RecipeError where a size fits no weight class, FileProblem where there is no held-out story.
    """
    began = time.monotonic()
    stories = sample(
        (each.text for each in read_corpus(corpus, "train")), config.sample_megabytes * 1_000_000, config.seed
    )
    held_out = [each.text for each in islice(read_corpus(corpus, "val"), HELD_OUT_STORIES)]
    if not any(held_out):
        raise FileProblem(f"{corpus} has no held-out story; build it with a larger corpus.validation_share")
    measured: dict[int, float] = {}
    for done, size in enumerate(sizes):
        log.info("training tokenizers", extra={"done": done, "total": len(sizes), "unit": "sizes"})
        made = train_tokenizer(stories, replace(config, vocabulary=size))
        # A small text may hold fewer pieces than were asked for.
        measured[made.vocabulary] = bytes_per_token(made.encode_batch(held_out), held_out)
    result = compare(measured, shape, Rules())
    with new_folder(out) as folder:
        plot(result, folder / "sweep.png")
        write_json(folder / "sweep.json", {"shape": asdict(shape), **asdict(result)})
        record = provenance(
            recipe=recipe,
            inputs={"corpus": sha256_of(corpus / "meta.json")},
            counts={"sizes": len(sizes), "held_out_stories": len(held_out)},
            seconds=time.monotonic() - began,
        )
        write_json(folder / "meta.json", {**record, "kind": "sweep", "format": 1})
    return result


def bytes_per_token(encoded: list[list[int]], texts: list[str]) -> float:
    """UTF-8 bytes of the texts over their tokens."""
    return sum(len(text.encode()) for text in texts) / max(1, sum(map(len, encoded)))


def compare(measured: dict[int, float], shape: ModelShape, rules: Rules) -> Sweep:
    """The rows of measured vocabularies (bytes per token by size) in every weight class they fit."""
    rows: list[SweepRow] = []
    recommended: dict[str, int] = {}
    for weight_class in rules.weight_classes:
        found = [
            row
            for size, each in sorted(measured.items())
            if (row := row_of(weight_class.name, weight_class.max_parameters, size, each, shape))
        ]
        if not found:
            raise RecipeError(
                f"no vocabulary of {sorted(measured)} leaves room for a layer in "
                f"{weight_class.max_parameters:,} parameters; choose smaller --sizes"
            )
        rows += found
        recommended[weight_class.name] = max(found, key=lambda row: row.benefit).vocabulary
    return Sweep(rows=tuple(rows), recommended=recommended)


def row_of(name: str, budget: int, size: int, bytes_a_token: float, shape: ModelShape) -> SweepRow | None:
    """A vocabulary in a weight class; None where it leaves too little for the layers."""

    def weights(width: int) -> int:
        return size * width + shape.layers_at(width) * shape.layer_parameters(width)

    width = max((each for each in range(WIDTH_STEP, 8192, WIDTH_STEP) if weights(each) <= budget), default=0)
    if not width:
        return None
    layers, embedding, parameters = shape.layers_at(width), size * width, weights(width)
    attention = 12 * layers * width * shape.context
    flops = (6 * parameters + attention) / bytes_a_token
    return SweepRow(
        weight_class=name,
        vocabulary=size,
        bytes_per_token=bytes_a_token,
        layers=layers,
        width=width,
        parameters=parameters,
        embedding_share=embedding / budget,
        flops_per_byte=flops,
        bytes_in_context=bytes_a_token * shape.context,
        benefit=benefit(parameters - embedding, flops),
    )


def benefit(layer_parameters: int, flops_per_byte: float) -> float:
    """What a given amount of compute buys: log of layer weights and of the text seen, weighed alike.

    The reducible loss falls as (weights)^-0.34 and (data)^-0.28 in Hoffmann et al. 2022; both are near a third, so
    weights in the layers and bytes seen for the same compute count the same. The embedding's weights do not count:
    a look-up table of rare pieces predicts little.
    """
    return LOSS_EXPONENT * (math.log(layer_parameters) - math.log(flops_per_byte))


def plot(result: Sweep, path: Path) -> None:
    """Embedding share and compute per byte over the vocabulary, a line a weight class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for name in result.recommended:
        rows = [row for row in result.rows if row.weight_class == name]
        sizes = [row.vocabulary for row in rows]
        best = sizes.index(result.recommended[name])
        for panel, values in zip(
            panels,
            (
                [row.bytes_per_token for row in rows],
                [100 * row.embedding_share for row in rows],
                [row.flops_per_byte / 1e6 for row in rows],
            ),
            strict=True,
        ):
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
