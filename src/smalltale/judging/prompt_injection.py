"""Completions are data: what keeps a story from steering its judge.

In: text that a contestant wrote. Out: text without control tokens, with a delimiter and a nonce it cannot know.
Beware: the delimiter and the nonce come from the run's secret salt; a folder's salt is published only with its results.
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
    """What str.translate makes of each character, found out when it first comes: itself, or nothing."""

    def __missing__(self, code: int) -> int | str | None:
        self[code] = code if is_rendered(chr(code)) else None
        return self[code]


RENDERABLE = RenderableCharacters(BRACKETS)
EMPTY_STORY = "(nothing else)"
MAX_REMOVAL_ROUNDS = 4
"""So often may what is left speak to a judge again, before nothing of it is left."""
MAX_SCORE_GAIN = 0.5
"""By how many marks a story may gain from speaking to its judge before the gain is taken back."""


def neutralise(text: str) -> str:
    """The text with nothing in it that a chat template, a tokenizer or a judge takes for a mark of ours.

    Every family spells its control tokens with angle or square brackets (`<|im_start|>`, `<s>`, `<0x0A>`, `<｜User｜>`,
    `[INST]`, `[|user|]`, `]~b]`), so these become look-alikes and round ones, as do the characters that a tokenizer may
    turn into them. Rows of stars and of equal signs, by which a rubric tells its parts apart, become a dash, and
    what shows nothing goes.
    """
    return SEPARATOR_ROWS.sub("— ", LINE_ENDS.sub("\n", text).translate(RENDERABLE))


def remove_judge_directed_text(text: str) -> str:
    """The text without the sentences that speak to a judge."""
    for _ in range(MAX_REMOVAL_ROUNDS):
        if not find_judge_directed_spans(text):
            return text.strip() or EMPTY_STORY
        text = remove_touched_sentences(text)
    return EMPTY_STORY


def remove_touched_sentences(text: str) -> str:
    """The text without each sentence of which a passage to a judge touches a part."""
    touched = mask_judge_directed_text(text)
    return SENTENCE.sub(lambda each: "" if any(touched[each.start() : each.end()]) else each.group(), text)


def mask_judge_directed_text(text: str) -> bytearray:
    """1 for each character inside a passage that speaks to a judge, 0 for the others."""
    touched = bytearray(len(text))
    for begin, end in find_judge_directed_spans(text):
        touched[begin:end] = b"\1" * (end - begin)
    return touched


def split_judge_directed_text(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, and of each whether it speaks to a judge."""
    touched = mask_judge_directed_text(text)
    return [
        ("".join(text[place] for place in places), bool(spoken))
        for spoken, places in itertools.groupby(range(len(text)), touched.__getitem__)
    ]


def derive_delimiter(salt: str, key: str) -> str:
    """The line around a text: unknown to whoever wrote it, the same on resume."""
    return f"=== {salted_digest(salt, 'delimiter', key)[:12]} ==="


def derive_nonce(salt: str, key: str) -> str:
    """What an answer must echo: six digits, which every tokenizer can copy."""
    return f"{int(salted_digest(salt, 'nonce', key)[:8], 16) % 1_000_000:06d}"


def salted_digest(salt: str, use: str, key: str) -> str:
    return hmac.new(salt.encode(), f"{use}|{key}".encode(), hashlib.sha256).hexdigest()
