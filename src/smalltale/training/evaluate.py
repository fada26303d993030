"""Bits per byte: how well a model predicts held-out stories, comparable between any tokenizers.

In: a model, its tokenizer, raw stories. Out: bits per UTF-8 byte, as docs/formats.md defines them.
Beware: every story is scored from its own start, whole, its end token included; none is left out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.errors import SmalltaleError
from smalltale.model.foreign import OutsideModel
from smalltale.model.loss import NO_TARGET
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_LOGITS = 32_000_000
"""Logits held at once: 128 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one text."""

    bits_per_byte: float
    nats: float
    stories: int
    tokens: int
    """Scored tokens, end-of-story tokens included."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of one story: its input ids, and targets where this window scores them."""

    ids: list[int]
    targets: list[int]


def evaluate(model: Transformer | OutsideModel, tokenizer: Tokenizer, stories: Sequence[str]) -> Evaluation:
    """Score raw stories in float32. Raises SmalltaleError where the tokenizer loses text."""
    device = next(model.parameters()).device
    token_ids = tokenizer.encode_batch(list(stories))
    check_lossless(tokenizer, stories, token_ids)
    windows = [
        window for ids in token_ids for window in windows_of(ids, tokenizer.end_id, model.config.context)
    ]
    windows.sort(key=lambda window: len(window.ids))
    nats, scored, done, shown = 0.0, 0, 0, 0.0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches_of(windows, model.config.vocabulary):
            ids, targets = (
                padded([getattr(each, name) for each in batch], fill, device)
                for name, fill in (("ids", tokenizer.end_id), ("targets", NO_TARGET))
            )
            logits = model(ids)
            losses = F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
            )
            nats += float(losses.double().sum())
            scored += int((targets != NO_TARGET).sum())
            done += len(batch)
            if time.monotonic() - shown > 0.2 or done == len(windows):
                shown = time.monotonic()
                log.info("evaluating", extra={"done": done, "total": len(windows), "unit": "stories"})
    model.train(was_training)
    size = sum(len(story.encode("utf-8")) for story in stories)
    if not math.isfinite(nats):
        raise SmalltaleError("the model gives NaN for this text; its training has diverged, train it again")
    return Evaluation(
        bits_per_byte=nats / math.log(2) / size, nats=nats, stories=len(stories), tokens=scored, bytes=size
    )


def check_lossless(tokenizer: Tokenizer, stories: Sequence[str], token_ids: Sequence[list[int]]) -> None:
    """Raise where decoding does not give a story back: its bits would not be the story's."""
    for number, (story, ids) in enumerate(zip(stories, token_ids, strict=True), 1):
        if tokenizer.decode(ids) != story:
            raise SmalltaleError(
                f"the tokenizer does not give story {number} back ({story[:40]!r}…), so bits per byte would be wrong; "
                "use a lossless one (byte-level BPE)"
            )


def windows_of(ids: list[int], end_id: int, context: int) -> list[Window]:
    """The windows that score each token of a story once, with the longest left context.

    The first takes `context` tokens, each further one overlaps by half and scores its second half.
    """
    inputs, targets = [end_id, *ids], [*ids, end_id]
    if len(inputs) <= context:
        return [Window(ids=inputs, targets=targets)]
    stride = context - context // 2
    windows, scored = [], 0
    start = 0
    while scored < len(targets):
        end = min(start + context, len(targets))
        masked = [NO_TARGET] * (scored - start)
        windows.append(Window(ids=inputs[start:end], targets=masked + targets[scored:end]))
        scored = end
        start += stride
    return windows


def batches_of(windows: list[Window], vocabulary: int) -> list[list[Window]]:
    """Windows, sorted by length, in batches whose padded logits stay under MAX_LOGITS."""
    batches: list[list[Window]] = []
    for window in windows:
        longest = len(window.ids)
        if not batches or (len(batches[-1]) + 1) * longest * vocabulary > MAX_LOGITS:
            batches.append([])
        batches[-1].append(window)
    return batches


def padded(rows: list[list[int]], fill: int, device: torch.device) -> Tensor:
    """Rows of different lengths as one (B, longest) tensor."""
    longest = max(map(len, rows))
    return torch.tensor(
        [row + [fill] * (longest - len(row)) for row in rows], dtype=torch.long, device=device
    )
