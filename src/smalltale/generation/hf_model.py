"""LanguageModels of other frameworks: Hugging Face causal models, and any object that returns the next token's logits.

Input: a Hugging Face or nanoGPT model folder, or an object with `next_logits`. Output: LanguageModels.
No code in a folder is run (`trust_remote_code` stays off).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from smalltale.errors import FileProblem, first_line
from smalltale.generation.inference_weights import Decoder
from smalltale.model.architectures import CONTEXT_KEYS, read_config_number
from smalltale.model.foreign import ForeignModel, open_foreign_model
from smalltale.tokens.tokenizer import Tokenizer


class NextLogitsModel(Protocol):
    """The smallest interface that a factory's model may have."""

    context: int

    def encode(self, prompt: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def ends(self, token: int) -> bool: ...

    def next_logits(self, rows: list[list[int]]) -> Tensor:
        """The logits (B, V) of the token after each row."""


class NextLogitsAdapter:
    """A NextLogitsModel as a LanguageModel. Without a KV cache: every step reads the complete rows."""

    def __init__(self, model: NextLogitsModel) -> None:
        self.model = model
        self.context, self.batch, self.refill = model.context, int(getattr(model, "batch", 32)), 1 / 8
        self.encode, self.decode, self.ends = model.encode, model.decode, model.ends

    def decoder(self, rows: int, longest_prompt: int, max_new_tokens: int) -> Decoder:
        return UncachedDecoder(self.model)


class UncachedDecoder:
    """Keeps rows as lists of ids."""

    def __init__(self, model: NextLogitsModel) -> None:
        self.model = model
        self.rows: list[list[int]] = []

    def add(self, prompts: list[list[int]]) -> Tensor:
        self.rows += [list(prompt) for prompt in prompts]
        return torch.as_tensor(self.model.next_logits([list(prompt) for prompt in prompts])).float()

    def step(self, ids: Tensor) -> Tensor:
        self.rows = [[*row, token] for row, token in zip(self.rows, ids.tolist(), strict=True)]
        return torch.as_tensor(self.model.next_logits(self.rows)).float()

    def keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class UncachedModel:
    """A ForeignModel without a KV cache (nanoGPT) as a NextLogitsModel; causal attention ignores the right padding."""

    def __init__(self, model: ForeignModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.context
        self.device = next(model.parameters()).device

    @classmethod
    def open(cls, folder: Path, device: torch.device) -> UncachedModel:
        """A checkpoint folder that `smalltale import` wrote. Raises FileProblem."""
        return cls(open_foreign_model(folder, device), Tokenizer.load(folder))

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
        last_positions = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return self.model(ids)[torch.arange(len(rows), device=self.device), last_positions]  # type: ignore[no-any-return]


class HuggingFaceModel:
    """A causal model of transformers and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context = read_config_number(model, CONTEXT_KEYS) or 2048
        self.batch, self.refill = 128, 1 / 2
        eos_ids = model.generation_config.eos_token_id
        eos_ids = tokenizer.eos_token_id if eos_ids is None else eos_ids
        self.end_ids = set(eos_ids if isinstance(eos_ids, list) else [eos_ids])

    @classmethod
    def open(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> HuggingFaceModel:
        """A model folder. Raises FileProblem if transformers cannot open it."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            model.to(device).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise FileProblem(
                f"{folder} does not open as a Hugging Face causal model ({first_line(error)}); "
                "give a complete model folder with its tokenizer"
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

    def decoder(self, rows: int, longest_prompt: int, max_new_tokens: int) -> Decoder:
        return HuggingFaceDecoder(self.model, self.context)


class HuggingFaceDecoder:
    """Decodes groups of rows; the rows of one call of `add` share one KV cache of transformers."""

    def __init__(self, model: Any, context: int) -> None:
        self.model, self.context = model, context
        self.groups: list[CachedRows] = []

    @torch.inference_mode()
    def add(self, prompts: list[list[int]]) -> Tensor:
        group = CachedRows(self.model, prompts, self.context)
        self.groups.append(group)
        return group.logits

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        ids_by_group = torch.split(ids, [group.size for group in self.groups])
        steps = zip(self.groups, ids_by_group, strict=True)
        return torch.cat([group.step(group_ids) for group, group_ids in steps])

    def keep(self, rows: list[int]) -> None:
        start, remaining = 0, []
        for group in self.groups:
            group_rows = [row - start for row in rows if start <= row < start + group.size]
            start += group.size
            if group_rows:
                group.keep(group_rows)
                remaining.append(group)
        self.groups = remaining


class CachedRows:
    """Rows that share one KV cache, padded on the left."""

    def __init__(self, model: Any, prompts: list[list[int]], context: int) -> None:
        self.model, self.size, self.context = model, len(prompts), context
        device, T = model.device, max(map(len, prompts))
        ids = torch.tensor([[0] * (T - len(prompt)) + prompt for prompt in prompts], device=device)
        masks = [[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.mask = torch.tensor(masks, device=device)
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
        output = model(input_ids=ids, attention_mask=self.mask, position_ids=positions, use_cache=True)
        self.cache = output.past_key_values
        self.logits: Tensor = output.logits[:, -1].float()

    def step(self, ids: Tensor) -> Tensor:
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=1)
        output = self.model(
            input_ids=ids[:, None],
            attention_mask=self.mask,
            position_ids=(self.mask.sum(-1, keepdim=True) - 1).clamp_max(self.context - 1),
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.size = self.mask[index], len(rows)
