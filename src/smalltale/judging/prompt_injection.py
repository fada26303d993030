"""Defence against prompt injection: a story must not steer its judge.

Input: text written by a contestant. Output: text without control tokens; delimiters and nonces that it cannot guess.
Note: delimiter and nonce derive from the run's secret salt; publish a folder's salt only with its results.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re

from smalltale.text_signals import SENTENCE, find_judge_directed_spans, is_rendered

BRACKETS = str.maketrans("<＜﹤≮>＞﹥≯[［﹇]］﹈", "‹‹‹‹››››((()))")
LINE_ENDS = re.compile(r"\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
SEPARATOR_ROWS = re.compile(r"(?:[*＊﹡∗⁎✱✲٭⋆★☆✳⁂⁑][ \t]*){3,}|(?:[=＝﹦═꞊⩵⩶][ \t]*){3,}")


class RenderableCharacters(dict[int, int | str | None]):
    """Table for str.translate that removes invisible characters; filled when a character first occurs."""

    def __missing__(self, code: int) -> int | str | None:
        self[code] = code if is_rendered(chr(code)) else None
        return self[code]


RENDERABLE = RenderableCharacters(BRACKETS)
EMPTY_STORY = "(nothing else)"
MAX_REMOVAL_ROUNDS = 4
"""Removing sentences can join others that speak to a judge; after this many rounds the whole text is dropped."""
MAX_SCORE_GAIN = 0.5
"""Points that a story may gain from speaking to its judge; a larger gain is undone."""


def neutralise(text: str) -> str:
    """Remove everything that a chat template, a tokenizer or a judge could read as control text.

    All model families spell control tokens with angle or square brackets (`<|im_start|>`, `<s>`, `<0x0A>`, `<｜User｜>`,
    `[INST]`, `[|user|]`, `]~b]`), so these become look-alikes and round brackets, as do the characters that a tokenizer
    may normalise to them. Rows of stars or equal signs, which separate the parts of a rubric's task, become a dash.
    Invisible characters are removed.
    """
    return SEPARATOR_ROWS.sub("— ", LINE_ENDS.sub("\n", text).translate(RENDERABLE))


def remove_judge_directed_text(text: str) -> str:
    """Remove all sentences that speak to a judge."""
    for _ in range(MAX_REMOVAL_ROUNDS):
        if not find_judge_directed_spans(text):
            return text.strip() or EMPTY_STORY
        text = remove_touched_sentences(text)
    return EMPTY_STORY


def remove_touched_sentences(text: str) -> str:
    """Remove each sentence that overlaps a passage addressed to a judge."""
    touched = mask_judge_directed_text(text)
    return SENTENCE.sub(
        lambda match: "" if any(touched[match.start() : match.end()]) else match.group(), text
    )


def mask_judge_directed_text(text: str) -> bytearray:
    """1 for each character inside a passage addressed to a judge, 0 elsewhere."""
    touched = bytearray(len(text))
    for begin, end in find_judge_directed_spans(text):
        touched[begin:end] = b"\1" * (end - begin)
    return touched


def split_judge_directed_text(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is addressed to a judge."""
    touched = mask_judge_directed_text(text)
    return [
        ("".join(text[position] for position in positions), bool(is_directed))
        for is_directed, positions in itertools.groupby(range(len(text)), touched.__getitem__)
    ]


def derive_delimiter(salt: str, key: str) -> str:
    """The line before and after a text: the author cannot know it, a resumed run derives the same."""
    return f"=== {salted_digest(salt, 'delimiter', key)[:12]} ==="


def derive_nonce(salt: str, key: str) -> str:
    """Six digits that the answer must echo; all tokenizers can copy digits."""
    return f"{int(salted_digest(salt, 'nonce', key)[:8], 16) % 1_000_000:06d}"


def salted_digest(salt: str, use: str, key: str) -> str:
    return hmac.new(salt.encode(), f"{use}|{key}".encode(), hashlib.sha256).hexdigest()
