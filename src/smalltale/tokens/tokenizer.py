"""A tokenizer: trained on stories, kept in a folder that transformers opens too.

In: texts, or a tokenizer folder. Out: token ids; decode(encode(text)) == text for every text.
Beware: the end-of-story mark inside a text is text: only `end_id` itself ends a story.
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
from smalltale.files import END_OF_STORY, new_file, read_json, read_text, write_json
from smalltale.tokens.unigram import fit_unigram

PADDING = "<|padding|>"
SPECIALS = [END_OF_STORY, PADDING]
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
        self.hash = hash_of(engine)

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
        names = token_names(config)
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


def hash_of(engine: tokenizers.Tokenizer) -> str:
    """Hex SHA-256 of all that decides the ids.

    Scores count to six digits: the library reads some of them one unit in the last place off what it wrote.
    """
    told = json.loads(engine.to_str(), parse_float=lambda number: f"{float(number):.6g}")
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def token_names(config: dict[str, Any]) -> dict[str, str | None]:
    """The end and padding tokens that a tokenizer_config.json names, as text or as a table with `content`."""
    return {
        key: name["content"] if isinstance(name := config.get(key), dict) else name
        for key in ("eos_token", "pad_token")
    }


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
    if config.kind == "unigram":
        return Tokenizer(train_unigram(stories, config.vocabulary))
    wordpiece = config.kind == "wordpiece"
    engine = on_bytes(models.WordPiece(unk_token=PADDING) if wordpiece else models.BPE())
    same: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "special_tokens": SPECIALS,
        "show_progress": False,
        "initial_alphabet": ALPHABET,
    }
    trainer = (
        trainers.WordPieceTrainer(**same, continuing_subword_prefix="")
        if wordpiece
        else trainers.BpeTrainer(**same)
    )
    engine.train_from_iterator(stories, trainer, length=len(stories))
    if wordpiece:
        # A longer word would become the unknown token; every byte is known, so no word need be.
        engine.model = models.WordPiece(
            vocab=engine.get_vocab(with_added_tokens=True),
            unk_token=PADDING,
            continuing_subword_prefix="",
            max_input_chars_per_word=2**31,
        )
    return Tokenizer(engine)


def train_unigram(stories: list[str], vocabulary: int) -> tokenizers.Tokenizer:
    """A Unigram tokenizer whose pieces are chosen from a BPE of twice the size."""
    seeds = train_tokenizer(stories, TokenizerConfig(vocabulary=2 * vocabulary)).engine.get_vocab()
    pieces = fit_unigram(
        stories,
        [piece for piece in seeds if piece not in SPECIALS],
        ALPHABET,
        vocabulary - len(SPECIALS),
        lambda scored: on_bytes(models.Unigram(scored, None, False)),
    )
    engine = on_bytes(models.Unigram([*((each, 0.0) for each in SPECIALS), *pieces], None, False))
    engine.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in SPECIALS])
    return engine


def on_bytes(model: Any) -> tokenizers.Tokenizer:
    """A tokenizer of that model on the bytes of the pieces that STORY_PATTERN cuts."""
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(STORY_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    return engine


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
