"""Models that are not ours: any Hugging Face causal model, and anything that gives the next token's logits.

In: a Hugging Face model folder, or an object with `next_logits`. Out: Storytellers.
Beware: a Hugging Face model is opened without running code of its folder (`trust_remote_code` stays off).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.generation.inference_weights import Decoder
from smalltale.model.foreign import OutsideModel, open_outside
from smalltale.tokens.tokenizer import Tokenizer


class NextLogits(Protocol):
    """What a factory may return: the least a model must do."""

    context: int

    def encode(self, prompt: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def ends(self, token: int) -> bool: ...

    def next_logits(self, rows: list[list[int]]) -> Tensor:
        """The logits (B, V) of the token after each row."""


class StepByStep:
    """A NextLogits as a Storyteller: every step reads the rows anew."""

    def __init__(self, model: NextLogits) -> None:
        self.model = model
        self.context, self.batch, self.refill = model.context, int(getattr(model, "batch", 32)), 1 / 8
        self.encode, self.decode, self.ends = model.encode, model.decode, model.ends

    def decoder(self, rows: int, longest_prompt: int, room: int) -> Decoder:
        return RowsDecoder(self.model)


class RowsDecoder:
    """Rows kept as lists of ids."""

    def __init__(self, model: NextLogits) -> None:
        self.model = model
        self.rows: list[list[int]] = []

    def add(self, prompts: list[list[int]]) -> Tensor:
        self.rows += [list(each) for each in prompts]
        return torch.as_tensor(self.model.next_logits([list(each) for each in prompts])).float()

    def step(self, ids: Tensor) -> Tensor:
        self.rows = [[*row, token] for row, token in zip(self.rows, ids.tolist(), strict=True)]
        return torch.as_tensor(self.model.next_logits(self.rows)).float()

    def keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class Rereader:
    """A model that keeps nothing between steps (nanoGPT's): rows are padded at their right, which no token before sees."""

    def __init__(self, model: OutsideModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.context
        self.device = next(model.parameters()).device

    @classmethod
    def open(cls, folder: Path, device: torch.device) -> Rereader:
        """A checkpoint folder that `smalltale import` wrote. Raises FileProblem."""
        return cls(open_outside(folder, device), Tokenizer.load(folder))

    def encode(self, prompt: str) -> list[int]:
        return [self.tokenizer.end_id, *self.tokenizer.encode(prompt)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def ends(self, token: int) -> bool:
        return token == self.tokenizer.end_id

    @torch.inference_mode()
    def next_logits(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return self.model(ids)[torch.arange(len(rows), device=self.device), ends]  # type: ignore[no-any-return]


class HuggingFace:
    """A causal model of transformers with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        config = model.config
        self.context = int(
            getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048
        )
        self.batch, self.refill = 128, 1 / 2
        found = model.generation_config.eos_token_id
        found = tokenizer.eos_token_id if found is None else found
        self.end_ids = set(found if isinstance(found, list) else [found])

    @classmethod
    def open(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> HuggingFace:
        """A model folder. Raises FileProblem where transformers cannot open it."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            model.to(device).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise FileProblem(
                f"{folder} does not open as a Hugging Face causal model ({first}); give a whole model folder with its tokenizer"
            ) from error
        return cls(model, tokenizer)

    def encode(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer(prompt)["input_ids"]
        while len(ids) > 1 and ids[-1] in self.end_ids:
            ids.pop()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def ends(self, token: int) -> bool:
        return token in self.end_ids

    def decoder(self, rows: int, longest_prompt: int, room: int) -> Decoder:
        return CohortDecoder(self.model, self.context)


class CohortDecoder:
    """Rows that came in together share one cache of the library, padded at its left."""

    def __init__(self, model: Any, context: int) -> None:
        self.model, self.context = model, context
        self.cohorts: list[Cohort] = []

    @torch.inference_mode()
    def add(self, prompts: list[list[int]]) -> Tensor:
        cohort = Cohort(self.model, prompts, self.context)
        self.cohorts.append(cohort)
        return cohort.logits

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        parts = torch.split(ids, [cohort.size for cohort in self.cohorts])
        return torch.cat([cohort.step(part) for cohort, part in zip(self.cohorts, parts, strict=True)])

    def keep(self, rows: list[int]) -> None:
        start, left = 0, []
        for cohort in self.cohorts:
            inside = [row - start for row in rows if start <= row < start + cohort.size]
            start += cohort.size
            if inside:
                cohort.keep(inside)
                left.append(cohort)
        self.cohorts = left


class Cohort:
    """Rows of one cache."""

    def __init__(self, model: Any, prompts: list[list[int]], context: int) -> None:
        self.model, self.size, self.context = model, len(prompts), context
        device, T = model.device, max(map(len, prompts))
        ids = torch.tensor([[0] * (T - len(each)) + each for each in prompts], device=device)
        self.mask = torch.tensor([[0] * (T - len(each)) + [1] * len(each) for each in prompts], device=device)
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
        answer = model(input_ids=ids, attention_mask=self.mask, position_ids=positions, use_cache=True)
        self.cache = answer.past_key_values
        self.logits: Tensor = answer.logits[:, -1].float()

    def step(self, ids: Tensor) -> Tensor:
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=1)
        answer = self.model(
            input_ids=ids[:, None],
            attention_mask=self.mask,
            position_ids=(self.mask.sum(-1, keepdim=True) - 1).clamp_max(self.context - 1),
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = answer.logits[:, -1].float()
        return logits

    def keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.size = self.mask[index], len(rows)
