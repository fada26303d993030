"""Encode stories word by word, each distinct word once: what makes encoding as fast as a disk.

In: Arrow arrays of stories. Out: token ids, each story's followed by the end token, and where each story ends.
Beware: a text is cut only where a single space stands between two characters that are no white space. There every
pre-tokenizer in `cuts_before_spaces` cuts too, so the ids are those of the whole text; other tokenizers go the
plain way, story by story.
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

MOST_WORDS = 1_000_000
"""The cache is emptied when it holds so many, about 300 MB."""
LETTERS_4 = r"[^\r\n\p{L}\p{N}]?\p{L}+"
ENDINGS_4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS_THAT_CUT = {
    STORY_PATTERN,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    *(
        rf"{ENDINGS_4}|{LETTERS_4}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in (r"\p{N}{1,3}", r"\p{N}", r"\p{N}{1,2}")  # GPT-4 and Llama 3, Qwen 2, nanochat
    ),
    # tiktoken's own forms of GPT-2's and GPT-4's, as convert.for_oniguruma leaves them
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++\z|\s+(?!\S)|\s",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|\s+(?!\S)|\s",
}
"""Patterns in which a space can only be the first character of a match, or part of white space."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A run of stories as tokens."""

    tokens: NDArray[Any]
    ends: NDArray[np.int64]
    """Where each story ends in `tokens`, its end token included."""


class WordEncoder:
    """A tokenizer that remembers every word. Several threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = np.dtype(np.uint16 if tokenizer.vocabulary <= 2**16 else np.uint32)
        self.by_word = cuts_before_spaces(tokenizer.engine.to_str())
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin with the two words that are no text: 0, the end of a story, and 1, nothing."""
        self.after_space: dict[str, int] = {}
        """The number of a word that has a space before it, by the word without it."""
        self.as_it_is: dict[str, int] = {"": 1}
        self.table = pa.ListArray.from_arrays(
            pa.array([0, 1, 1], pa.int32()),
            pa.array([self.tokenizer.end_id], pa.from_numpy_dtype(self.dtype)),
        )
        """The tokens of each word by its number."""

    def encode(self, stories: pa.StringArray) -> Encoded:
        """The tokens of stories. Raises MarkInside where one has the end-of-story mark in it."""
        if not self.by_word:
            return self.encode_whole(stories.to_pylist())
        lists = pc.split_pattern(stories, pattern=" ")
        bounds = lists.offsets.to_numpy()
        bounds = bounds - bounds[0]
        coded = lists.flatten().dictionary_encode()
        pieces = coded.dictionary.to_pylist()
        places = coded.indices.to_numpy()
        openings = places[bounds[:-1]]
        different = np.unique(openings)
        glued, begins, covered = glue(pieces, ends_open(coded.dictionary), places, bounds)
        numbers, others, table = self.look_up(
            pieces, [*(pieces[each] for each in different.tolist()), *glued]
        )
        told = numbers[places]
        told[bounds[:-1]] = others[np.searchsorted(different, openings)]
        told[covered] = 1
        told[begins] = others[len(different) :]
        told = table.take(pa.array(np.insert(told, bounds[1:], 0)))
        reached = told.offsets.to_numpy()
        return Encoded(
            tokens=told.values.to_numpy(),
            ends=reached[bounds[1:] + np.arange(1, len(bounds))].astype(np.int64),
        )

    def encode_whole(self, stories: list[str]) -> Encoded:
        """The tokens of stories, by the tokenizer alone."""
        refuse_mark(stories)
        encoded = self.tokenizer.encode_batch(stories)
        return Encoded(
            tokens=np.array([i for ids in encoded for i in (*ids, self.tokenizer.end_id)], dtype=self.dtype),
            ends=np.cumsum([len(ids) + 1 for ids in encoded], dtype=np.int64),
        )

    def look_up(
        self, after_space: list[str], as_it_is: list[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], pa.ListArray]:
        """The numbers of words that have a space before them, of words that have none, and the table of tokens."""
        with self.lock:
            if len(self.table) > MOST_WORDS:
                self.forget()
            return (
                self.numbers(self.after_space, after_space, " "),
                self.numbers(self.as_it_is, as_it_is, ""),
                self.table,
            )

    def numbers(self, known: dict[str, int], words: list[str], before: str) -> NDArray[np.int32]:
        """The number of each word in `known`; new ones are encoded with `before` in front."""
        try:
            return np.fromiter(map(known.__getitem__, words), np.int32, len(words))
        except KeyError:
            new = [word for word in dict.fromkeys(words) if word not in known]
        refuse_mark(new)
        encoded = self.tokenizer.encode_batch([before + word for word in new])
        grown = pa.array(encoded, self.table.type)
        first = len(self.table)
        self.table = pa.concat_arrays([self.table, grown])
        known.update(zip(new, range(first, first + len(new)), strict=True))
        return np.fromiter(map(known.__getitem__, words), np.int32, len(words))


class MarkInside(SmalltaleError):
    """A story has the end-of-story mark in its text."""


def refuse_mark(texts: list[str]) -> None:
    """Raise MarkInside where a text holds the mark; it has no space, so a word shows it as well as a story."""
    if any(END_OF_STORY in text for text in texts):
        raise MarkInside(f"a story has {END_OF_STORY} inside; split the text at its marks")


def ends_open(pieces: pa.StringArray) -> NDArray[np.bool_]:
    """Which pieces are empty or end in white space: a space after them need not be a cut."""
    _, offsets_buffer, data = pieces.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[pieces.offset : pieces.offset + len(pieces) + 1]
    text = np.frombuffer(data or b"", np.uint8)
    empty = offsets[1:] == offsets[:-1]
    last = np.zeros(len(pieces), np.uint8)
    last[~empty] = text[offsets[1:][~empty] - 1]
    found: NDArray[np.bool_] = (
        empty | (last == 32) | ((last >= 9) & (last <= 13)) | ((last >= 28) & (last <= 31))
    )
    for number in np.flatnonzero(last >= 128).tolist():
        found[number] = pieces[number].as_py()[-1].isspace()
    return found


def glue(
    pieces: list[str], open_ended: NDArray[np.bool_], places: NDArray[np.int32], bounds: NDArray[np.int32]
) -> tuple[list[str], list[int], NDArray[np.int64]]:
    """Words of stories that were split at every space, but have white space of more than one character in them.

    A piece that is open ended is one word with the piece after it. Returns those words with the space before
    them, where each begins in `places`, and all the places they cover.
    """
    words: list[str] = []
    begins: list[int] = []
    covered: list[int] = []
    if open_ended.any():
        opened = np.flatnonzero(open_ended[places])
        story = np.searchsorted(bounds, opened, side="right")
        for at, start, end in zip(
            opened.tolist(), bounds[story - 1].tolist(), bounds[story].tolist(), strict=True
        ):
            if covered and at <= covered[-1]:
                continue
            after = at + 1
            while after < end and open_ended[places[after - 1]]:
                after += 1
            word = " ".join(pieces[number] for number in places[at:after].tolist())
            words.append(word if at == start else " " + word)
            begins.append(at)
            covered.extend(range(at, after))
    return words, begins, np.array(covered, dtype=np.int64)


def cuts_before_spaces(tokenizer_json: str) -> bool:
    """Whether a tokenizer surely cuts before a space between two characters that are no white space.

    Then the ids of the parts are those of the whole.
    """
    told = json.loads(tokenizer_json)
    # Special tokens are read as text (Tokenizer.load); other added tokens are found anywhere in it.
    added = [each for each in told.get("added_tokens") or [] if not each["special"]]
    if any(each["lstrip"] or each["rstrip"] or re.search(r"\S ", each["content"]) for each in added):
        return False
    if told["model"].get("dropout") or told.get("normalizer") is not None:
        return False
    step = told.get("pre_tokenizer") or {"type": None}
    return any(cuts(each) for each in step.get("pretokenizers", [step])) and all(
        cuts(each) or each["type"] in ("Digits", "Punctuation", "ByteLevel")
        for each in step.get("pretokenizers", [step])
    )


def cuts(step: dict[str, Any]) -> bool:
    """Whether one pre-tokenizer cuts before such a space."""
    if step["type"] == "Split":
        isolated = step["behavior"] == "Isolated" and not step["invert"]
        return isolated and step["pattern"].get("Regex") in PATTERNS_THAT_CUT
    return step["type"] == "ByteLevel" and bool(step["use_regex"])
