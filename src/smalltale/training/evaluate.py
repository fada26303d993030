"""Bits per byte: how well a model predicts held-out stories, comparable between tokenizers.

Input: a model, its tokenizer, raw stories. Output: bits per UTF-8 byte, as docs/formats.md defines them.
Note: every story is scored from its own start, completely, including its end token; none is skipped.
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
from smalltale.model.foreign import ForeignModel
from smalltale.model.loss import IGNORE_INDEX
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_LOGITS = 32_000_000
"""Logits in memory at once: 128 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Score of one model on one set of stories."""

    bits_per_byte: float
    nats: float
    stories: int
    tokens: int
    """Scored tokens, including end-of-story tokens."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A section of one story: its input ids, and the targets that this window scores."""

    ids: list[int]
    targets: list[int]


def evaluate(model: Transformer | ForeignModel, tokenizer: Tokenizer, stories: Sequence[str]) -> Evaluation:
    """Score raw stories in float32. Raises SmalltaleError if the tokenizer is lossy or the model returns NaN."""
    device = next(model.parameters()).device
    token_ids = tokenizer.encode_batch(list(stories))
    check_lossless(tokenizer, stories, token_ids)
    context = model.config.context
    windows = [window for ids in token_ids for window in split_into_windows(ids, tokenizer.end_id, context)]
    windows.sort(key=lambda window: len(window.ids))
    nats, scored, done, logged_at = 0.0, 0, 0, 0.0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in group_windows(windows, model.config.vocabulary):
            ids = pad_rows([window.ids for window in batch], tokenizer.end_id, device)
            targets = pad_rows([window.targets for window in batch], IGNORE_INDEX, device)
            logits = model(ids).flatten(0, 1)
            losses = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
            nats += float(losses.double().sum())
            scored += int((targets != IGNORE_INDEX).sum())
            done += len(batch)
            if time.monotonic() - logged_at > 0.2 or done == len(windows):
                logged_at = time.monotonic()
                log.info("evaluating", extra={"done": done, "total": len(windows), "unit": "stories"})
    model.train(was_training)
    size = sum(len(story.encode("utf-8")) for story in stories)
    if not math.isfinite(nats):
        raise SmalltaleError("the model returns NaN for this text: its training diverged; train it again")
    return Evaluation(
        bits_per_byte=nats / math.log(2) / size, nats=nats, stories=len(stories), tokens=scored, bytes=size
    )


def check_lossless(tokenizer: Tokenizer, stories: Sequence[str], token_ids: Sequence[list[int]]) -> None:
    """Raise SmalltaleError if decoding changes a story, because its bits would then be those of a different text."""
    for number, (story, ids) in enumerate(zip(stories, token_ids, strict=True), 1):
        if tokenizer.decode(ids) != story:
            raise SmalltaleError(
                f"the tokenizer does not reproduce story {number} ({story[:40]!r}…), so bits per byte would be wrong; "
                "use a lossless tokenizer (byte-level BPE)"
            )


def split_into_windows(ids: list[int], end_id: int, context: int) -> list[Window]:
    """The windows that score each token of a story once, with the longest left context.

    The first has `context` tokens; each further one overlaps the previous by half and scores its second half.
    """
    inputs, targets = [end_id, *ids], [*ids, end_id]
    if len(inputs) <= context:
        return [Window(ids=inputs, targets=targets)]
    stride = context - context // 2
    windows, start, scored = [], 0, 0
    while scored < len(targets):
        end = min(start + context, len(targets))
        masked = [IGNORE_INDEX] * (scored - start)
        windows.append(Window(ids=inputs[start:end], targets=masked + targets[scored:end]))
        scored = end
        start += stride
    return windows


def group_windows(windows: list[Window], vocabulary: int) -> list[list[Window]]:
    """Windows, sorted by length, in batches whose padded logits stay below MAX_LOGITS."""
    batches: list[list[Window]] = []
    for window in windows:
        if not batches or (len(batches[-1]) + 1) * len(window.ids) * vocabulary > MAX_LOGITS:
            batches.append([])
        batches[-1].append(window)
    return batches


def pad_rows(rows: list[list[int]], fill: int, device: torch.device) -> Tensor:
    """Rows of different lengths as one (B, longest) tensor."""
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=device)
