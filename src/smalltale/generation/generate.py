"""Complete prompts: a storyteller and prompts in, different completions out.

In: prompts as text. Out: Completions in the prompts' order, the prompt itself never among the words.
Beware: candidates are numbered from 0 for each prompt; which of them are handed in does not depend on the batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalltale.errors import SmalltaleError
from smalltale.generation.best_of_n import Ranked, choose_best
from smalltale.generation.candidate import Candidate
from smalltale.generation.inference_weights import Decoder
from smalltale.generation.language_model import Ours, Storyteller, choose_dtype
from smalltale.generation.sampler import GenerationConfig, choose, draws, repeats
from smalltale.model.transformer import Transformer
from smalltale.signals import is_visible
from smalltale.submission import Completion, as_seen
from smalltale.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
"""Rounds in which a completion that equals another one of its prompt is written anew."""
LOOK_FOR_LOOPS = 16
"""Tokens between two looks for an endless loop."""
PROGRESS_SECONDS = 0.3


@dataclass(kw_only=True)
class Row:
    """One completion being written."""

    prompt: int
    sample: int
    uniform: NDArray[np.float64]
    ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0


def complete(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig
) -> list[Completion]:
    """`config.samples` different completions by one of our models for each prompt, prompt by prompt."""
    dtype = choose_dtype(model.embedding.weight.device, config.dtype)
    return completions(Ours(model, tokenizer, dtype), prompts, config)


def completions(
    teller: Storyteller,
    prompts: Sequence[str],
    config: GenerationConfig,
    *,
    finished: Sequence[Candidate] = (),
    keep: Callable[[Candidate], None] = lambda candidate: None,
    ranked: Callable[[Ranked], None] = lambda ranked: None,
    copied_words: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> list[Completion]:
    """`config.samples` different completions for each prompt, prompt by prompt.

    finished: candidates of an earlier, broken run; keep is told each new one, ranked each candidate's signals;
    copied_words: the longest span, in words, that each text shares with the training stories; best of N avoids long ones.
    Raises SmalltaleError where a prompt does not fit the model, or no more different completions are found.
    """
    encoded = [encode(teller, prompt) for prompt in prompts]
    found: dict[tuple[int, int], Candidate] = {(each.prompt, each.sample): each for each in finished}
    wanted = [config.candidates] * len(prompts)
    for _ in range(MAX_ATTEMPTS):
        missing = [
            (prompt, sample)
            for prompt, count in enumerate(wanted)
            for sample in range(count)
            if (prompt, sample) not in found
        ]
        for candidate in write(teller, prompts, encoded, missing, config):
            found[candidate.prompt, candidate.sample] = candidate
            keep(candidate)
        usable = [
            different([found[prompt, sample] for sample in range(count)])
            for prompt, count in enumerate(wanted)
        ]
        short = [prompt for prompt, each in enumerate(usable) if len(each) < config.samples]
        if not short:
            break
        for prompt in short:
            wanted[prompt] += config.samples - len(usable[prompt])
    else:
        raise SmalltaleError(
            f"the model gives only {len(usable[short[0]])} different completions of {prompts[short[0]][:40]!r}…, "
            f"{config.samples} are wanted; raise generation.temperature"
        )
    return [
        Completion(prompts[each.prompt], each.text)
        for each in best(prompts, usable, config, ranked, copied_words)
    ]


def best(
    prompts: Sequence[str],
    usable: Sequence[Sequence[Candidate]],
    config: GenerationConfig,
    ranked: Callable[[Ranked], None],
    copied_words: Callable[[Sequence[str]], Sequence[int]] | None,
) -> Iterator[Candidate]:
    """`config.samples` candidates of each prompt; the best where there are more."""
    copied: dict[str, int] = {}
    if copied_words is not None:
        texts = [each.text for candidates in usable for each in candidates]
        copied = dict(zip(texts, copied_words(texts), strict=True))
    for prompt, candidates in zip(prompts, usable, strict=True):
        if len(candidates) > config.samples:
            lengths = None if copied_words is None else [copied[each.text] for each in candidates]
            candidates = choose_best(prompt, candidates, config.samples, config.rank, ranked, lengths)
        yield from candidates


def encode(teller: Storyteller, prompt: str) -> list[int]:
    """A prompt's ids. Raises SmalltaleError where it cannot be read."""
    if not is_visible(prompt):
        raise SmalltaleError(f"a prompt is empty ({prompt!r}); give every prompt some words")
    ids = teller.encode(prompt)
    if not ids:
        raise SmalltaleError(f"the tokenizer knows no character of the prompt {prompt[:40]!r}; give another")
    if len(ids) >= teller.context:
        raise SmalltaleError(
            f"the prompt {prompt[:40]!r}… has {len(ids)} tokens, the model reads {teller.context}; shorten it"
        )
    return ids


def different(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with words, each text once."""
    texts: dict[str, Candidate] = {}
    for each in candidates:
        if is_visible(each.text) and "\x00" not in each.text:
            texts.setdefault(as_seen(each.text), each)
    return list(texts.values())


def write(
    teller: Storyteller,
    prompts: Sequence[str],
    encoded: list[list[int]],
    missing: Sequence[tuple[int, int]],
    config: GenerationConfig,
) -> Iterator[Candidate]:
    """Write completions, by (prompt, sample); finished rows make room for waiting ones."""
    if not missing:
        return
    order = sorted(missing, key=lambda each: (len(encoded[each[0]]), each))
    longest = max(len(encoded[prompt]) for prompt, _ in order)
    batch = Batch(teller, encoded, min(config.batch or teller.batch, len(order)), longest, config)
    waiting = deque(
        Row(
            prompt=prompt,
            sample=sample,
            uniform=draws(config.seed, prompts[prompt], sample, config.max_tokens),
        )
        for prompt, sample in order
    )
    done, shown = 0, 0.0
    while waiting or batch.rows:
        if waiting and len(batch.live) <= batch.size * (1 - teller.refill):
            batch.drop_finished()
            batch.take([waiting.popleft() for _ in range(min(len(waiting), batch.size - len(batch.rows)))])
        finished = batch.step()
        yield from finished
        done += len(finished)
        if time.monotonic() - shown > PROGRESS_SECONDS or not (waiting or batch.rows):
            shown = time.monotonic()
            log.info("generating", extra={"done": done, "total": len(order), "unit": "stories"})


class Batch:
    """Rows being written; finished ones stay, unread, until enough of them have gathered to be worth a drop."""

    DROP_SHARE = 1 / 8

    def __init__(
        self, teller: Storyteller, encoded: list[list[int]], size: int, longest: int, config: GenerationConfig
    ) -> None:
        self.teller, self.encoded, self.size, self.config = teller, encoded, size, config
        self.decoder: Decoder = teller.decoder(size, longest, config.max_tokens)
        self.rows: list[Row] = []
        self.live: list[int] = []
        """Places of the rows that are not finished."""
        self.logits: Tensor | None = None
        self.seen: Tensor | None = None
        """(B, V), the tokens of each row's prompt and story, where they are penalised."""

    def take(self, rows: list[Row]) -> None:
        """Read the prompts of new rows."""
        logits = self.decoder.add([self.encoded[row.prompt] for row in rows])
        self.live += range(len(self.rows), len(self.rows) + len(rows))
        self.rows += rows
        self.logits = logits if self.logits is None else torch.cat((self.logits, logits))
        if self.config.repetition_penalty != 1:
            seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            for place, row in enumerate(rows):
                seen[place, self.encoded[row.prompt]] = True
            self.seen = seen if self.seen is None else torch.cat((self.seen, seen))

    def step(self) -> list[Candidate]:
        """One token for each row. Returns those that are finished by it."""
        assert self.logits is not None
        device = self.logits.device
        uniform = torch.from_numpy(
            np.array([row.uniform[min(len(row.ids), len(row.uniform) - 1)] for row in self.rows])
        )
        with torch.inference_mode():
            choice = choose(self.logits, uniform.to(device), self.config, self.seen)
            ids, chances = choice.ids.tolist(), choice.log_probability.tolist()
            if self.seen is not None:
                self.seen[torch.arange(len(self.rows), device=device), choice.ids] = True
        finished, live = [], []
        for place in self.live:
            row = self.rows[place]
            ended = self.write_one(row, ids[place], chances[place])
            if ended:
                finished.append(self.candidate(row, ended))
            else:
                live.append(place)
        self.live = live
        if not live:
            self.rows, self.logits, self.seen = [], None, None
            self.decoder.keep([])
            return finished
        drop = len(self.rows) - len(live) >= max(1, self.DROP_SHARE * len(self.rows))
        ids_now = choice.ids[live] if drop else choice.ids
        if drop:
            self.drop_finished()
        self.logits = self.decoder.step(ids_now)
        return finished

    def write_one(self, row: Row, token: int, log_probability: float) -> str:
        """Add a token. Returns why the row is finished, or nothing."""
        if not math.isfinite(log_probability):
            raise SmalltaleError("the model gives NaN; its training has diverged, train it again")
        row.log_probability += log_probability
        if self.teller.ends(token):
            return "story"
        row.ids.append(token)
        length, repeated = len(row.ids), self.config.loop_repeats
        if repeated and length % LOOK_FOR_LOOPS == 0 and repeats(row.ids, repeated):
            return "loop"
        most = min(self.config.max_tokens, self.teller.context - len(self.encoded[row.prompt]))
        return "length" if length >= most else ""

    def candidate(self, row: Row, ended: str) -> Candidate:
        """What a finished row gives."""
        tokens = len(row.ids) + (ended == "story")
        return Candidate(
            prompt=row.prompt,
            sample=row.sample,
            text=self.teller.decode(row.ids),
            tokens=tokens,
            mean_log_probability=row.log_probability / max(1, tokens),
            ended=ended,
        )

    def drop_finished(self) -> None:
        """Free the places of finished rows."""
        if len(self.live) == len(self.rows):
            return
        self.decoder.keep(self.live)
        self.rows = [self.rows[place] for place in self.live]
        if self.logits is not None:
            self.logits = self.logits[self.live]
        if self.seen is not None:
            self.seen = self.seen[self.live]
        self.live = list(range(len(self.rows)))
