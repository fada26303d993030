"""Encode stories word by word, with a cache of the tokens of each distinct word.

Input: Arrow arrays of stories. Output: token ids with an end token after each story, and where each story ends.
A text is split only at a single space between two characters that are not white space. A pre-tokenizer for which
`splits_before_spaces` holds splits there too, so the ids are those of the full text. Any other tokenizer encodes
story by story.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from smalltale.errors import SmalltaleError
from smalltale.files import END_OF_STORY
from smalltale.tokens.tokenizer import STORY_PATTERN, Tokenizer

MAX_CACHED_WORDS = 1_000_000
"""The cache is cleared above this size, about 300 MB."""
GPT4_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
GPT4_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS_SPLITTING_AT_SPACES = {
    STORY_PATTERN,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    *(
        rf"{GPT4_CONTRACTIONS}|{GPT4_LETTERS}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in (r"\p{N}{1,3}", r"\p{N}", r"\p{N}{1,2}")  # GPT-4 and Llama 3, Qwen 2, nanochat
    ),
    # tiktoken's variants of GPT-2's and GPT-4's patterns, converted by convert.to_oniguruma
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++\z|\s+(?!\S)|\s",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|\s+(?!\S)|\s",
}
"""Patterns that match a space only as the first character, or within white space."""


@dataclass(frozen=True, kw_only=True)
class EncodedStories:
    """The tokens of consecutive stories."""

    tokens: NDArray[Any]
    ends: NDArray[np.int64]
    """Where each story ends in `tokens`, its end token included."""


class WordEncoder:
    """A tokenizer with a cache of words; several threads may share it.

    Each cached word has a number, its row in `table`. Row 0 is the end token, row 1 has no token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = np.dtype(np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32)
        self.uses_words = splits_before_spaces(tokenizer.engine.to_str())
        self.lock = threading.Lock()
        self.clear_cache()

    def clear_cache(self) -> None:
        self.spaced_numbers: dict[str, int] = {}
        """Numbers of the words after a space, by the word without the space."""
        self.initial_numbers: dict[str, int] = {"": 1}
        """Numbers of the words without a space before them."""
        self.table = pa.ListArray.from_arrays(
            pa.array([0, 1, 1], pa.int32()),
            pa.array([self.tokenizer.end_id], pa.from_numpy_dtype(self.dtype)),
        )
        """The tokens of each word."""

    def encode(self, stories: pa.StringArray) -> EncodedStories:
        """Encode stories. Raises EndMarkInStory if one has the end-of-story mark in its text."""
        if not self.uses_words:
            return self.encode_full_texts(stories.to_pylist())
        split = pc.split_pattern(stories, pattern=" ")
        bounds = split.offsets.to_numpy()
        bounds = bounds - bounds[0]
        encoded_words = split.flatten().dictionary_encode()
        words = encoded_words.dictionary.to_pylist()
        indices = encoded_words.indices.to_numpy()
        first_indices = indices[bounds[:-1]]
        distinct_first = np.unique(first_indices)
        joined, joined_starts, joined_positions = join_at_white_space(
            words, end_in_white_space(encoded_words.dictionary), indices, bounds
        )
        initial_words = [*(words[index] for index in distinct_first.tolist()), *joined]
        spaced, initial, table = self.look_up(words, initial_words)
        numbers = spaced[indices]
        numbers[bounds[:-1]] = initial[np.searchsorted(distinct_first, first_indices)]
        numbers[joined_positions] = 1
        numbers[joined_starts] = initial[len(distinct_first) :]
        tokens = table.take(pa.array(np.insert(numbers, bounds[1:], 0)))
        token_offsets = tokens.offsets.to_numpy()
        return EncodedStories(
            tokens=tokens.values.to_numpy(),
            ends=token_offsets[bounds[1:] + np.arange(1, len(bounds))].astype(np.int64),
        )

    def encode_full_texts(self, stories: list[str]) -> EncodedStories:
        """Encode stories with the tokenizer alone."""
        refuse_end_mark(stories)
        encoded = self.tokenizer.encode_batch(stories)
        end_id = self.tokenizer.end_id
        return EncodedStories(
            tokens=np.array([token for ids in encoded for token in (*ids, end_id)], dtype=self.dtype),
            ends=np.cumsum([len(ids) + 1 for ids in encoded], dtype=np.int64),
        )

    def look_up(
        self, spaced_words: list[str], initial_words: list[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], pa.ListArray]:
        """Return the numbers of words after a space, those of words without one, and the table of tokens."""
        with self.lock:
            if len(self.table) > MAX_CACHED_WORDS:
                self.clear_cache()
            return (
                self.number_words(self.spaced_numbers, spaced_words, " "),
                self.number_words(self.initial_numbers, initial_words, ""),
                self.table,
            )

    def number_words(self, cache: dict[str, int], words: list[str], prefix: str) -> NDArray[np.int32]:
        """Return the number of each word; a word that is not in `cache` is encoded with `prefix` and added."""
        try:
            return np.fromiter(map(cache.__getitem__, words), np.int32, len(words))
        except KeyError:
            new_words = [word for word in dict.fromkeys(words) if word not in cache]
        refuse_end_mark(new_words)
        tokens = self.tokenizer.encode_batch([prefix + word for word in new_words])
        first = len(self.table)
        self.table = pa.concat_arrays([self.table, pa.array(tokens, self.table.type)])
        cache.update(zip(new_words, range(first, first + len(new_words)), strict=True))
        return np.fromiter(map(cache.__getitem__, words), np.int32, len(words))


class EndMarkInStory(SmalltaleError):
    """A story has the end-of-story mark in its text."""


def refuse_end_mark(texts: list[str]) -> None:
    """Raise EndMarkInStory if a text contains the mark; the mark has no space, so it is always within one word."""
    if any(END_OF_STORY in text for text in texts):
        raise EndMarkInStory(f"a story has {END_OF_STORY} inside; split the text at its marks")


def end_in_white_space(words: pa.StringArray) -> NDArray[np.bool_]:
    """Return which words are empty or end in white space: a space after them need not be a split."""
    _, offsets_buffer, data = words.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[words.offset : words.offset + len(words) + 1]
    text = np.frombuffer(data or b"", np.uint8)
    is_empty = offsets[1:] == offsets[:-1]
    last_byte = np.zeros(len(words), np.uint8)
    last_byte[~is_empty] = text[offsets[1:][~is_empty] - 1]
    is_control = ((last_byte >= 9) & (last_byte <= 13)) | ((last_byte >= 28) & (last_byte <= 31))
    ends_in_space: NDArray[np.bool_] = is_empty | (last_byte == 32) | is_control
    for number in np.flatnonzero(last_byte >= 128).tolist():
        ends_in_space[number] = words[number].as_py()[-1].isspace()
    return ends_in_space


def join_at_white_space(
    words: list[str], ends_in_space: NDArray[np.bool_], indices: NDArray[np.int32], bounds: NDArray[np.int32]
) -> tuple[list[str], list[int], NDArray[np.int64]]:
    """Join words that were split within white space of more than one character.

    A word that ends in white space belongs to the word after it. Returns the joined words with the space before
    them, the position of each in `indices`, and all positions that they cover.
    """
    joined: list[str] = []
    starts: list[int] = []
    covered: list[int] = []
    if ends_in_space.any():
        open_positions = np.flatnonzero(ends_in_space[indices])
        story = np.searchsorted(bounds, open_positions, side="right")
        for position, story_start, story_end in zip(
            open_positions.tolist(), bounds[story - 1].tolist(), bounds[story].tolist(), strict=True
        ):
            if covered and position <= covered[-1]:
                continue
            end = position + 1
            while end < story_end and ends_in_space[indices[end - 1]]:
                end += 1
            word = " ".join(words[index] for index in indices[position:end].tolist())
            joined.append(word if position == story_start else " " + word)
            starts.append(position)
            covered.extend(range(position, end))
    return joined, starts, np.array(covered, dtype=np.int64)


def splits_before_spaces(tokenizer_json: str) -> bool:
    """Whether a tokenizer always splits before a single space between two characters that are not white space.

    Then the ids of the parts are those of the full text.
    """
    settings = json.loads(tokenizer_json)
    # Tokenizer.load reads special tokens as text; other added tokens are matched anywhere in a text.
    added = [token for token in settings.get("added_tokens") or [] if not token["special"]]
    if any(token["lstrip"] or token["rstrip"] or re.search(r"\S ", token["content"]) for token in added):
        return False
    if settings["model"].get("dropout") or settings.get("normalizer") is not None:
        return False
    pre_tokenizer = settings.get("pre_tokenizer") or {"type": None}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return any(is_splitting_step(step) for step in steps) and all(
        is_splitting_step(step) or step["type"] in ("Digits", "Punctuation", "ByteLevel") for step in steps
    )


def is_splitting_step(step: dict[str, Any]) -> bool:
    """Whether one pre-tokenizer splits before such a space."""
    if step["type"] == "Split":
        isolated = step["behavior"] == "Isolated" and not step["invert"]
        return isolated and step["pattern"].get("Regex") in PATTERNS_SPLITTING_AT_SPACES
    return step["type"] == "ByteLevel" and bool(step["use_regex"])
