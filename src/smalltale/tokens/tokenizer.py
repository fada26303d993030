"""Train, load, save and use a tokenizer; its folder can also be opened with transformers.

Input: texts, or a tokenizer folder. Output: token ids; decode(encode(text)) == text for every text.
Pitfall: the end-of-story mark inside a text is encoded as text; only the token `end_id` ends a story.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from smalltale.errors import FileProblem, RecipeError
from smalltale.files import END_OF_STORY, atomic_file, read_json, read_text, write_json
from smalltale.tokens.unigram import fit_unigram

PADDING = "<|padding|>"
SPECIALS = [END_OF_STORY, PADDING]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
"""One character for each of the 256 bytes, as in GPT-2."""
STORY_PATTERN = "|".join(
    (
        r"['’](?:s|t|d|m|ll|re|ve)(?!\p{L})",  # the end of a contraction, but not an opening quote
        r" ?\p{Lu}?[\p{Ll}\p{M}]+",  # a word with the space before it, and at most one capital
        r" ?[\p{L}\p{M}]+",  # other words: capitals, scripts without case
        r" ?\p{N}",  # one digit
        r" ?[^\s\p{L}\p{M}\p{N}]+",  # punctuation and quotes, never with the word after them
        r"\s*[\r\n]+",  # the gap between paragraphs
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Splits a text before tokenization (Oniguruma syntax); a space is always the first character of its piece."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How `train_tokenizer` trains a tokenizer."""

    vocabulary: int = 4096
    """Number of tokens, including two special tokens and 256 bytes."""
    kind: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """The model; all three operate on bytes and are lossless."""
    sample_megabytes: int = 200
    """Train on a random sample of about this size; a smaller corpus is used in full."""
    seed: int = 0
    """Seed of the sample."""

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
        self.end_id = self.special_id(end_token)
        self.pad_id = self.special_id(padding_token)
        if self.end_id == self.pad_id:
            raise FileProblem(
                f"the tokenizer pads with its end-of-story token {end_token}; a model would never learn to stop: "
                f"name another padding token"
            )
        self.vocabulary_size: int = max(engine.get_vocab(with_added_tokens=True).values()) + 1
        """Rows that an embedding needs: the highest id plus 1."""
        self.hash = hash_tokenizer(engine)

    def special_id(self, token: str) -> int:
        """Return the id of a special token. Raises FileProblem if the tokenizer has none."""
        token_id: int | None = self.engine.token_to_id(token)
        if token_id is None:
            raise FileProblem(
                f"the tokenizer has no {token} token; train one with `smalltale tokens train`, "
                "or add one with `smalltale tokens convert`"
            )
        return token_id

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Load a tokenizer folder. Raises FileProblem if it is missing or broken."""
        engine = read_engine(folder / "tokenizer.json")
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.exists() else {}
        names = token_names(config)
        end_token, padding_token = names["eos_token"] or END_OF_STORY, names["pad_token"] or PADDING
        return cls(engine, end_token=end_token, padding_token=padding_token)

    def save(self, folder: Path, meta: dict[str, Any] | None = None) -> None:
        """Write tokenizer.json and the config for transformers 4 and 5; with `meta`, also a meta.json."""
        with atomic_file(folder / "tokenizer.json") as temporary:
            temporary.write_text(self.engine.to_str(pretty=True), encoding="utf-8")
        config = {
            # transformers 5 writes TokenizersBackend, which transformers 4 cannot load.
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
        """Return the ids of a text, without special tokens."""
        ids: list[int] = self.engine.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text, on all cores."""
        encodings = self.engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self.engine.decode(list(ids), skip_special_tokens=True)
        return text


def hash_tokenizer(engine: tokenizers.Tokenizer) -> str:
    """Return the hex SHA-256 of everything that decides the ids.

    Scores are rounded to six digits, because the library reads some of them one unit in the last place off.
    """
    settings = json.loads(engine.to_str(), parse_float=lambda number: f"{float(number):.6g}")
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def token_names(config: dict[str, Any]) -> dict[str, str | None]:
    """Return the end and padding tokens of a tokenizer_config.json, which are strings or tables with `content`."""
    return {
        key: name["content"] if isinstance(name := config.get(key), dict) else name
        for key in ("eos_token", "pad_token")
    }


def read_engine(path: Path) -> tokenizers.Tokenizer:
    """Load a tokenizer.json. Raises FileProblem if it is missing or broken."""
    text = read_text(path)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        raise FileProblem(f"{path} is not a tokenizer ({error}); see `smalltale tokens train`") from error


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a tokenizer on stories; the same texts in the same order give the same tokenizer.

    No token crosses from one story into the next. Raises FileProblem if there is no text.
    """
    stories = sample_stories(texts, config.sample_megabytes * 1_000_000, config.seed)
    if not stories:
        raise FileProblem("no story to train a tokenizer on; give a corpus with text")
    if config.kind == "unigram":
        return Tokenizer(train_unigram(stories, config.vocabulary))
    is_wordpiece = config.kind == "wordpiece"
    engine = make_byte_level(models.WordPiece(unk_token=PADDING) if is_wordpiece else models.BPE())
    settings: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "special_tokens": SPECIALS,
        "show_progress": False,
        "initial_alphabet": ALPHABET,
    }
    trainer: Any = trainers.BpeTrainer(**settings)
    if is_wordpiece:
        trainer = trainers.WordPieceTrainer(**settings, continuing_subword_prefix="")
    engine.train_from_iterator(stories, trainer, length=len(stories))
    if is_wordpiece:
        # Without this limit a long word would become the unknown token, although all its bytes are in the vocabulary.
        engine.model = models.WordPiece(
            vocab=engine.get_vocab(with_added_tokens=True),
            unk_token=PADDING,
            continuing_subword_prefix="",
            max_input_chars_per_word=2**31,
        )
    return Tokenizer(engine)


def train_unigram(stories: list[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Train a Unigram tokenizer whose pieces are chosen from those of a BPE of twice the size."""
    seeds = train_tokenizer(stories, TokenizerConfig(vocabulary=2 * vocabulary)).engine.get_vocab()
    pieces = fit_unigram(
        stories,
        [piece for piece in seeds if piece not in SPECIALS],
        ALPHABET,
        vocabulary - len(SPECIALS),
        lambda scored: make_byte_level(models.Unigram(scored, None, False)),
    )
    engine = make_byte_level(models.Unigram([*((token, 0.0) for token in SPECIALS), *pieces], None, False))
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return engine


def make_byte_level(model: Any, pattern: str = STORY_PATTERN) -> tokenizers.Tokenizer:
    """Return a tokenizer that splits a text with `pattern` and applies `model` to the bytes of each piece."""
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    return engine


def sample_stories(texts: Iterable[str], max_bytes: int, seed: int) -> list[str]:
    """Return a uniform sample of about `max_bytes`, or all of a smaller corpus, in order and in bounded memory."""
    generator = random.Random(seed)
    sample: list[tuple[float, str]] = []
    size, limit = 0, 1.0
    for text in texts:
        draw = generator.random()
        if draw >= limit:
            continue
        sample.append((draw, text))
        size += len(text.encode())
        if size > max_bytes * 1.2:
            limit *= max_bytes / size
            sample = [(draw, story) for draw, story in sample if draw < limit]
            size = sum(len(story.encode()) for _, story in sample)
    return [text for _, text in sample]
