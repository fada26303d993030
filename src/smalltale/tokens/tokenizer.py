"""A tokenizer: trained on stories, kept in a folder that transformers opens too.

In: texts, or a tokenizer folder. Out: token ids; decode(encode(text)) == text.
Beware: the end-of-story mark inside a text is text: only `end_id` itself ends a story.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from smalltale.errors import FileProblem, RecipeError
from smalltale.files import END_OF_STORY, new_file, read_json, read_text, write_json

PADDING = "<|padding|>"
BYTES = 256


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What `train_tokenizer` makes."""

    vocabulary: int = 4096
    """Tokens, the two special ones and the 256 bytes included."""

    def __post_init__(self) -> None:
        if self.vocabulary < BYTES + 2:
            raise RecipeError(
                f"tokenizer.vocabulary = {self.vocabulary} is smaller than the byte alphabet and two special tokens; "
                f"choose at least {BYTES + 2}"
            )


class Tokenizer:
    """A byte-level tokenizer with an end-of-story and a padding token."""

    def __init__(self, engine: tokenizers.Tokenizer) -> None:
        self.engine = engine
        self.vocabulary: int = engine.get_vocab_size()
        self.end_id = self.special(END_OF_STORY)
        self.pad_id = self.special(PADDING)
        self.hash = hashlib.sha256(engine.to_str().encode()).hexdigest()

    def special(self, token: str) -> int:
        """The id of a special token. Raises FileProblem where the tokenizer has none."""
        found: int | None = self.engine.token_to_id(token)
        if found is None:
            raise FileProblem(f"the tokenizer has no {token} token; train one with `smalltale tokens train`")
        return found

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a folder. Raises FileProblem where it is missing or broken."""
        path = folder / "tokenizer.json"
        text = read_text(path)
        try:
            engine = tokenizers.Tokenizer.from_str(text)
        except Exception as error:
            raise FileProblem(
                f"{path} is not a tokenizer ({error}); train one with `smalltale tokens train`"
            ) from error
        engine.encode_special_tokens = True
        return cls(engine)

    def save(self, folder: Path, meta: dict[str, Any] | None = None) -> None:
        """Write tokenizer.json and the config that transformers 4 and 5 load; with `meta`, a meta.json too."""
        with new_file(folder / "tokenizer.json") as temporary:
            temporary.write_text(self.engine.to_str(pretty=True), encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_STORY,
            "eos_token": END_OF_STORY,
            "pad_token": PADDING,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        write_json(folder / "tokenizer_config.json", config)
        if meta:
            write_json(folder / "meta.json", {**meta, "kind": "tokenizer", "format": 1, "hash": self.hash})

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no special token among them."""
        ids: list[int] = self.engine.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return [each.ids for each in self.engine.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        text: str = self.engine.decode(list(ids), skip_special_tokens=True)
        return text


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A byte-level BPE trained on `texts`; the same texts give the same tokenizer."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=[END_OF_STORY, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    engine.encode_special_tokens = True
    return Tokenizer(engine)


def read_tokenizer_meta(folder: Path) -> dict[str, Any]:
    """The record of a tokenizer folder."""
    meta: dict[str, Any] = read_json(folder / "meta.json")
    return meta
