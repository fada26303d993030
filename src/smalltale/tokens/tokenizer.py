"""A tokenizer: trained on stories, kept in a folder that transformers opens too.

In: texts, or a tokenizer folder. Out: token ids; decode(encode(text)) == text for every text.
Beware: the end-of-story mark inside a text is text: only `end_id` itself ends a story.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from smalltale.errors import FileProblem, RecipeError
from smalltale.files import END_OF_STORY, new_file, read_json, read_text, write_json

PADDING = "<|padding|>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
"""One character for each of the 256 bytes, as GPT-2 wrote them."""
STORY_PATTERN = "|".join(
    (
        r"['’](?:s|t|d|m|ll|re|ve)(?!\p{L})",  # the second half of a contraction; not an opening quote
        r" ?\p{Lu}?[\p{Ll}\p{M}]+",  # a word with its space, and at most one capital
        r" ?[\p{L}\p{M}]+",  # other words: CAPITALS, scripts without case
        r" ?\p{N}",  # digits apart
        r" ?[^\s\p{L}\p{M}\p{N}]+",  # punctuation and quotes, never with the word they open
        r"\s*[\r\n]+",  # the gap between paragraphs in one
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Where a text is cut before tokens are made of it (Oniguruma). A space is only ever first in a piece."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What `train_tokenizer` makes."""

    vocabulary: int = 4096
    """Tokens, the two special ones and the 256 bytes included."""
    kind: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """The model; all three work on bytes, so all are lossless."""
    sample_megabytes: int = 200
    """Train on a random sample of the stories of about this size; what is smaller is used whole."""
    seed: int = 0
    """Of the sample."""

    def __post_init__(self) -> None:
        if self.vocabulary < len(ALPHABET) + 2:
            raise RecipeError(
                f"tokenizer.vocabulary = {self.vocabulary} is smaller than the byte alphabet and two special tokens; "
                f"choose at least {len(ALPHABET) + 2}"
            )
        if self.kind not in ("bpe", "unigram", "wordpiece"):
            raise RecipeError(f"tokenizer.kind = {self.kind!r}; choose bpe, unigram or wordpiece")
        if self.sample_megabytes < 1:
            raise RecipeError(f"tokenizer.sample_megabytes = {self.sample_megabytes}; choose at least 1")


class Tokenizer:
    """A tokenizer with an end-of-story and a padding token."""

    def __init__(
        self, engine: tokenizers.Tokenizer, *, end_token: str = END_OF_STORY, padding_token: str = PADDING
    ) -> None:
        self.engine = engine
        engine.encode_special_tokens = True
        engine.no_padding()
        engine.no_truncation()
        self.end_token, self.padding_token = end_token, padding_token
        self.end_id = self.special(end_token)
        self.pad_id = self.special(padding_token)
        if self.end_id == self.pad_id:
            raise FileProblem(
                f"the tokenizer pads with its end-of-story token {end_token}; a model would never learn to stop: "
                f"name another padding token"
            )
        self.vocabulary: int = max(engine.get_vocab(with_added_tokens=True).values()) + 1
        """Rows an embedding needs: the highest id and one."""
        self.hash = hashlib.sha256(
            json.dumps(json.loads(engine.to_str()), sort_keys=True).encode()
        ).hexdigest()

    def special(self, token: str) -> int:
        """The id of a special token. Raises FileProblem where the tokenizer has none."""
        found: int | None = self.engine.token_to_id(token)
        if found is None:
            raise FileProblem(
                f"the tokenizer has no {token} token; train one with `smalltale tokens train`, "
                "or give it one with `smalltale tokens convert`"
            )
        return found

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a folder. Raises FileProblem where it is missing or broken."""
        engine = read_engine(folder / "tokenizer.json")
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.exists() else {}
        names = {
            key: name["content"] if isinstance(name := config.get(key), dict) else name
            for key in ("eos_token", "pad_token")
        }
        return cls(
            engine,
            end_token=names["eos_token"] or END_OF_STORY,
            padding_token=names["pad_token"] or PADDING,
        )

    def save(self, folder: Path, meta: dict[str, Any] | None = None) -> None:
        """Write tokenizer.json and the config that transformers 4 and 5 load; with `meta`, a meta.json too."""
        with new_file(folder / "tokenizer.json") as temporary:
            temporary.write_text(self.engine.to_str(pretty=True), encoding="utf-8")
        config = {
            # What transformers 5 writes itself, TokenizersBackend, is unknown to transformers 4.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.end_token,
            "eos_token": self.end_token,
            "pad_token": self.padding_token,
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


def read_engine(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json. Raises FileProblem where it is missing or broken."""
    text = read_text(path)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        raise FileProblem(
            f"{path} is not a tokenizer ({error}); train one with `smalltale tokens train`"
        ) from error


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of `texts`, one story each; the same texts, in the same order, give the same tokenizer.

    No token reaches from one story into the next. Raises FileProblem where there is no text.
    """
    stories = sample(texts, config.sample_megabytes * 1_000_000, config.seed)
    if not stories:
        raise FileProblem("there is no story to train a tokenizer on; give a corpus with text")
    engine = tokenizers.Tokenizer(EMPTY_MODELS[config.kind]())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(STORY_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    engine.train_from_iterator(stories, trainer_of(config), length=len(stories))
    if config.kind != "bpe":
        engine = completed(engine, config)
    return Tokenizer(engine)


EMPTY_MODELS: dict[str, Callable[[], Any]] = {
    "bpe": models.BPE,
    "unigram": models.Unigram,
    "wordpiece": lambda: models.WordPiece(unk_token=PADDING),
}


def trainer_of(config: TokenizerConfig) -> Any:
    """The library's trainer for the config."""
    same: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "special_tokens": [END_OF_STORY, PADDING],
        "show_progress": False,
        "initial_alphabet": ALPHABET,
    }
    if config.kind == "unigram":
        return trainers.UnigramTrainer(**same, unk_token=None)
    if config.kind == "wordpiece":
        return trainers.WordPieceTrainer(**same, continuing_subword_prefix="")
    return trainers.BpeTrainer(**same)


def completed(engine: tokenizers.Tokenizer, config: TokenizerConfig) -> tokenizers.Tokenizer:
    """The same tokenizer with every byte in it, and words of any length: lossless, with no unknown token."""
    told = json.loads(engine.to_str())
    model = told["model"]
    if config.kind == "wordpiece":
        model["continuing_subword_prefix"] = ""
        model["max_input_chars_per_word"] = 2**31
    else:
        specials = {END_OF_STORY, PADDING}
        pieces = [tuple(each) for each in model["vocab"] if each[0] not in specials]
        have = {piece for piece, _ in pieces}
        lowest = min(score for _, score in pieces) - 10.0
        missing = [(byte, lowest) for byte in ALPHABET if byte not in have]
        longer = [each for each in pieces if len(each[0]) > 1]
        room = config.vocabulary - len(specials) - len(ALPHABET)
        kept = set(sorted(longer, key=lambda each: -each[1])[:room])
        pieces = [each for each in pieces if len(each[0]) == 1 or each in kept]
        model["vocab"] = [[name, 0.0] for name in (END_OF_STORY, PADDING)] + [
            list(each) for each in pieces + missing
        ]
        model["unk_id"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(told))


def sample(texts: Iterable[str], most_bytes: int, seed: int) -> list[str]:
    """A uniform sample of about `most_bytes`, all where there is no more, in the order given, in bounded memory."""
    chance = random.Random(seed)
    kept: list[tuple[float, str]] = []
    size, limit = 0, 1.0
    for text in texts:
        draw = chance.random()
        if draw >= limit:
            continue
        kept.append((draw, text))
        size += len(text.encode())
        if size > most_bytes * 1.2:
            limit *= most_bytes / size
            kept = [each for each in kept if each[0] < limit]
            size = sum(len(story.encode()) for _, story in kept)
    return [text for _, text in kept]


def read_tokenizer_meta(folder: Path) -> dict[str, Any]:
    """The record of a tokenizer folder."""
    meta: dict[str, Any] = read_json(folder / "meta.json")
    return meta


def batched(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of at most `size`."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
