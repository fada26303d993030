"""Completes prompts: generates the requested number of different completions per prompt with any LanguageModel.

Input: prompts as text. Output: Completions in the order of the prompts, without the prompt text.
The candidates of a prompt are numbered from 0; which of them are returned does not depend on the batch.
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
from smalltale.generation.best_of_n import RankedCandidate, choose_best
from smalltale.generation.candidate import Candidate
from smalltale.generation.language_model import LanguageModel, NativeModel, choose_dtype
from smalltale.generation.sampler import GenerationConfig, ends_in_loop, sample_tokens, uniform_draws
from smalltale.model.transformer import Transformer
from smalltale.submission import Completion, normalize_visible_text
from smalltale.text_signals import has_visible_text
from smalltale.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_ROUNDS = 8
"""Rounds of generation; each round after the first replaces candidates that were empty or equal to another one."""
LOOP_CHECK_TOKENS = 16
"""Tokens between two checks for an endless loop."""
PROGRESS_SECONDS = 0.3


@dataclass(kw_only=True)
class ActiveCompletion:
    """One completion that is being generated: a row of the batch."""

    prompt: int
    sample: int
    uniform: NDArray[np.float64]
    ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0


def complete_prompts(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig
) -> list[Completion]:
    """`generate_completions` with a Transformer and its tokenizer."""
    dtype = choose_dtype(model.embedding.weight.device, config.dtype)
    return generate_completions(NativeModel(model, tokenizer, dtype), prompts, config)


def generate_completions(
    model: LanguageModel,
    prompts: Sequence[str],
    config: GenerationConfig,
    *,
    finished: Sequence[Candidate] = (),
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    on_ranked: Callable[[RankedCandidate], None] = lambda ranked: None,
    longest_copies: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> list[Completion]:
    """`config.samples` different completions per prompt, prompt by prompt.

    finished: candidates of an earlier, interrupted run. on_candidate is called with each new candidate, on_ranked with each
    candidate's signals. longest_copies returns the words of each text's longest span copied from the training stories.
    Raises SmalltaleError if a prompt does not fit the model, or if the model repeats itself too often.
    """
    encoded = [encode_prompt(model, prompt) for prompt in prompts]
    candidates = {(candidate.prompt, candidate.sample): candidate for candidate in finished}
    counts = [config.candidates] * len(prompts)
    for _ in range(MAX_ROUNDS):
        missing = [
            (prompt, sample)
            for prompt, count in enumerate(counts)
            for sample in range(count)
            if (prompt, sample) not in candidates
        ]
        for candidate in generate_candidates(model, prompts, encoded, missing, config):
            candidates[candidate.prompt, candidate.sample] = candidate
            on_candidate(candidate)
        usable = [
            deduplicate([candidates[prompt, sample] for sample in range(count)])
            for prompt, count in enumerate(counts)
        ]
        short = [prompt for prompt, group in enumerate(usable) if len(group) < config.samples]
        if not short:
            break
        for prompt in short:
            counts[prompt] += config.samples - len(usable[prompt])
    else:
        raise SmalltaleError(
            f"the model generated only {len(usable[short[0]])} different completions of {prompts[short[0]][:40]!r}…, "
            f"{config.samples} are needed; raise generation.temperature"
        )
    return [
        Completion(prompts[candidate.prompt], candidate.text)
        for candidate in select_candidates(prompts, usable, config, on_ranked, longest_copies)
    ]


def select_candidates(
    prompts: Sequence[str],
    usable: Sequence[Sequence[Candidate]],
    config: GenerationConfig,
    on_ranked: Callable[[RankedCandidate], None],
    longest_copies: Callable[[Sequence[str]], Sequence[int]] | None,
) -> Iterator[Candidate]:
    """`config.samples` candidates per prompt: the best if there are more."""
    words_by_text: dict[str, int] = {}
    if longest_copies is not None:
        texts = [candidate.text for candidates in usable for candidate in candidates]
        words_by_text = dict(zip(texts, longest_copies(texts), strict=True))
    for prompt, candidates in zip(prompts, usable, strict=True):
        if len(candidates) > config.samples:
            copied = None
            if longest_copies is not None:
                copied = [words_by_text[candidate.text] for candidate in candidates]
            candidates = choose_best(prompt, candidates, config.samples, config.rank, on_ranked, copied)
        yield from candidates


def encode_prompt(model: LanguageModel, prompt: str) -> list[int]:
    """A prompt's ids. Raises SmalltaleError if it is empty or longer than the context."""
    if not has_visible_text(prompt):
        raise SmalltaleError(f"a prompt is empty ({prompt!r}); write at least one word in every prompt")
    ids = model.encode(prompt)
    if not ids:
        raise SmalltaleError(f"the tokenizer has no token for the prompt {prompt[:40]!r}; change the prompt")
    if len(ids) >= model.context:
        raise SmalltaleError(
            f"the prompt {prompt[:40]!r}… has {len(ids)} tokens, the model reads {model.context}; shorten it"
        )
    return ids


def deduplicate(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with visible text and without NUL, the first of each text."""
    candidate_by_text: dict[str, Candidate] = {}
    for candidate in candidates:
        if has_visible_text(candidate.text) and "\x00" not in candidate.text:
            candidate_by_text.setdefault(normalize_visible_text(candidate.text), candidate)
    return list(candidate_by_text.values())


def generate_candidates(
    model: LanguageModel,
    prompts: Sequence[str],
    encoded: list[list[int]],
    missing: Sequence[tuple[int, int]],
    config: GenerationConfig,
) -> Iterator[Candidate]:
    """Generate the missing (prompt, sample) pairs with continuous batching: waiting rows replace finished ones."""
    if not missing:
        return
    order = sorted(missing, key=lambda pair: (len(encoded[pair[0]]), pair))
    longest = max(len(encoded[prompt]) for prompt, _ in order)
    batch = GenerationBatch(model, encoded, min(config.batch or model.batch, len(order)), longest, config)
    waiting = deque(
        ActiveCompletion(
            prompt=prompt,
            sample=sample,
            uniform=uniform_draws(config.seed, prompts[prompt], sample, config.max_tokens),
        )
        for prompt, sample in order
    )
    done, logged = 0, 0.0
    while waiting or batch.rows:
        if waiting and len(batch.active) <= batch.size * (1 - model.refill):
            batch.drop_finished()
            batch.add([waiting.popleft() for _ in range(min(len(waiting), batch.size - len(batch.rows)))])
        finished = batch.step()
        yield from finished
        done += len(finished)
        if time.monotonic() - logged > PROGRESS_SECONDS or not (waiting or batch.rows):
            logged = time.monotonic()
            log.info("generating", extra={"done": done, "total": len(order), "unit": "stories"})


class GenerationBatch:
    """Rows that are being generated. Finished rows stay until they are a large enough share to be worth dropping."""

    DROP_SHARE = 1 / 8

    def __init__(
        self,
        model: LanguageModel,
        encoded: list[list[int]],
        size: int,
        longest: int,
        config: GenerationConfig,
    ) -> None:
        self.model, self.encoded, self.size, self.config = model, encoded, size, config
        self.decoder = model.decoder(size, longest, config.max_tokens)
        self.rows: list[ActiveCompletion] = []
        self.active: list[int] = []
        """Indices of the rows that are not finished."""
        self.logits: Tensor | None = None
        self.seen: Tensor | None = None
        """(B, V), the tokens in each row's prompt and story; only with a repetition penalty."""

    def add(self, rows: list[ActiveCompletion]) -> None:
        """Append rows and read their prompts."""
        logits = self.decoder.add([self.encoded[row.prompt] for row in rows])
        self.active += range(len(self.rows), len(self.rows) + len(rows))
        self.rows += rows
        self.logits = logits if self.logits is None else torch.cat((self.logits, logits))
        if self.config.repetition_penalty != 1:
            seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            for index, row in enumerate(rows):
                seen[index, self.encoded[row.prompt]] = True
            self.seen = seen if self.seen is None else torch.cat((self.seen, seen))

    def step(self) -> list[Candidate]:
        """Generate one token per row. Returns the candidates finished by it."""
        assert self.logits is not None
        device = self.logits.device
        # A finished row that has not been dropped yet has used all of its numbers.
        uniform = np.array([row.uniform[min(len(row.ids), len(row.uniform) - 1)] for row in self.rows])
        with torch.inference_mode():
            sampled = sample_tokens(self.logits, torch.from_numpy(uniform).to(device), self.config, self.seen)
            ids, log_probabilities = sampled.ids.tolist(), sampled.log_probability.tolist()
            if self.seen is not None:
                self.seen[torch.arange(len(self.rows), device=device), sampled.ids] = True
        finished, active = [], []
        for index in self.active:
            row = self.rows[index]
            if ended := self.append_token(row, ids[index], log_probabilities[index]):
                finished.append(self.to_candidate(row, ended))
            else:
                active.append(index)
        self.active = active
        if not active:
            self.rows, self.logits, self.seen = [], None, None
            self.decoder.keep([])
            return finished
        next_ids = sampled.ids
        if len(self.rows) - len(active) >= max(1, self.DROP_SHARE * len(self.rows)):
            next_ids = next_ids[active]
            self.drop_finished()
        self.logits = self.decoder.step(next_ids)
        return finished

    def append_token(self, row: ActiveCompletion, token: int, log_probability: float) -> str:
        """Append a token. Returns why the row is finished (Candidate.ended), or an empty string."""
        if not math.isfinite(log_probability):
            raise SmalltaleError("the model gives NaN; its training has diverged, train it again")
        row.log_probability += log_probability
        if self.model.ends(token):
            return "story"
        row.ids.append(token)
        length, repeats = len(row.ids), self.config.loop_repeats
        if repeats and length % LOOP_CHECK_TOKENS == 0 and ends_in_loop(row.ids, repeats):
            return "loop"
        max_length = min(self.config.max_tokens, self.model.context - len(self.encoded[row.prompt]))
        return "length" if length >= max_length else ""

    def to_candidate(self, row: ActiveCompletion, ended: str) -> Candidate:
        tokens = len(row.ids) + (ended == "story")
        return Candidate(
            prompt=row.prompt,
            sample=row.sample,
            text=self.model.decode(row.ids),
            tokens=tokens,
            mean_log_probability=row.log_probability / max(1, tokens),
            ended=ended,
        )

    def drop_finished(self) -> None:
        """Remove finished rows, here and in the decoder."""
        if len(self.active) == len(self.rows):
            return
        self.decoder.keep(self.active)
        self.rows = [self.rows[index] for index in self.active]
        if self.logits is not None:
            self.logits = self.logits[self.active]
        if self.seen is not None:
            self.seen = self.seen[self.active]
        self.active = list(range(len(self.rows)))
