"""Complete prompts: a model, its tokenizer and prompts in, different completions out.

In: prompts as text. Out: Completions in the prompts' order, the prompt itself never among the words.
Beware: a prompt is read from the end-of-story token, as every story was in training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from smalltale.errors import SmalltaleError
from smalltale.generation.decoder import Decoder
from smalltale.generation.sampler import GenerationConfig, choose, draws
from smalltale.model.transformer import Transformer
from smalltale.submission import Completion
from smalltale.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
"""Rounds in which a completion that equals another one of its prompt is written anew."""


@dataclass(kw_only=True)
class Row:
    """One completion being written."""

    prompt: int
    """Index of the prompt."""
    sample: int
    uniform: NDArray[np.float64]
    ids: list[int] = field(default_factory=list)


def complete(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig
) -> list[Completion]:
    """`config.samples` different completions for each prompt, prompt by prompt.

    Raises SmalltaleError where a prompt is too long for the model, or no more different completions are found.
    """
    prompt_ids = [[tokenizer.end_id, *tokenizer.encode(prompt)] for prompt in prompts]
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        if len(ids) >= model.config.context:
            raise SmalltaleError(
                f"the prompt {prompt[:40]!r}… has {len(ids)} tokens, the model reads {model.config.context}; shorten it"
            )
    written: list[dict[str, None]] = [{} for _ in prompts]
    total = len(prompts) * config.samples
    for attempt in range(MAX_ATTEMPTS):
        rows = [
            Row(
                prompt=index,
                sample=sample,
                uniform=draws(config.seed, prompts[index], sample, config.max_tokens),
            )
            for index in range(len(prompts))
            for sample in range(
                attempt * config.samples, attempt * config.samples + config.samples - len(written[index])
            )
        ]
        rows.sort(key=lambda row: len(prompt_ids[row.prompt]))
        for start in range(0, len(rows), config.batch):
            batch = rows[start : start + config.batch]
            write(model, tokenizer, [prompt_ids[row.prompt] for row in batch], batch, config)
            for row in sorted(batch, key=lambda row: row.sample):
                text = tokenizer.decode(row.ids)
                if text.strip():
                    written[row.prompt].setdefault(text)
            done = sum(map(len, written))
            log.info("generating", extra={"done": done, "total": total, "unit": "stories"})
        if all(len(texts) == config.samples for texts in written):
            return [
                Completion(prompt, text)
                for prompt, texts in zip(prompts, written, strict=True)
                for text in texts
            ]
    short = next(index for index, texts in enumerate(written) if len(texts) < config.samples)
    raise SmalltaleError(
        f"the model gives only {len(written[short])} different completions of {prompts[short][:40]!r}…, "
        f"{config.samples} are wanted; raise generation.temperature"
    )


@torch.inference_mode()
def write(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    rows: list[Row],
    config: GenerationConfig,
) -> None:
    """Fill in `ids` of each row, all in one batch."""
    device = model.embedding.weight.device
    decoder = Decoder(model, prompts, config.max_tokens)
    logits = decoder.start()
    uniform = torch.from_numpy(np.stack([row.uniform for row in rows])).to(device)
    alive = list(range(len(rows)))
    for step in range(config.max_tokens):
        if not torch.isfinite(logits).all():
            raise SmalltaleError("the model gives NaN; its training has diverged, train it again")
        chosen = choose(logits, uniform[alive, step], config)
        going = []
        for place, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
            if token != tokenizer.end_id:
                rows[row].ids.append(token)
                if decoder.has_room(place):
                    going.append(place)
        if not going:
            return
        if len(going) < len(alive):
            decoder.keep(going)
            alive = [alive[place] for place in going]
            chosen = chosen[going]
        logits = decoder.step(chosen)
