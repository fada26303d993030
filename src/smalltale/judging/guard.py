"""Completions are data: what keeps a story from steering its judge.

In: text that a contestant wrote. Out: text without control tokens, with a delimiter and a nonce it cannot know.
Beware: the delimiter and the nonce come from the run's secret salt; a folder's salt is published only with its results.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata

from smalltale.signals import judge_directed, sentences

ANGLES = str.maketrans({"<": "‹", ">": "›", "＜": "‹", "＞": "›", "﹤": "‹", "﹥": "›"})
BRACKETED = re.compile(r"\[(/?[A-Za-z][A-Za-z0-9_ ]{0,40})\]")
STARS = re.compile(r"^([ \t]*)\*{3,}[ \t]*$", re.MULTILINE)
NOTHING = "(nothing else)"
JUMP = 0.5
"""By how many marks a story may gain from speaking to its judge before the gain is taken back."""


def neutralise(text: str) -> str:
    """The text with nothing in it that a chat template or a tokenizer takes for a control token.

    Every family's markers are spelled with angle brackets (`<|im_start|>`, `<s>`, `<start_of_turn>`, `<｜User｜>`) or as a
    word in square ones (`[INST]`); these become look-alikes, and invisible format characters go.
    """
    visible = "".join(
        each for each in text if unicodedata.category(each) not in {"Cf", "Co", "Cs"} and each != "\x00"
    )
    return STARS.sub(r"\1* * *", BRACKETED.sub(r"(\1)", visible.translate(ANGLES)))


def without_words_to_judge(text: str) -> str:
    """The text without the sentences that speak to a judge."""
    kept = [each for each in sentences(text) if not judge_directed(each)]
    return " ".join(kept) or NOTHING


def delimiter_of(salt: str, key: str) -> str:
    """The line around a text: unknown to whoever wrote it, the same on resume."""
    return f"=== {digest(salt, 'delimiter', key)[:12]} ==="


def nonce_of_request(salt: str, key: str) -> str:
    """What an answer must echo: six digits, which every tokenizer can copy."""
    return f"{int(digest(salt, 'nonce', key)[:8], 16) % 1_000_000:06d}"


def digest(salt: str, use: str, key: str) -> str:
    return hmac.new(salt.encode(), f"{use}|{key}".encode(), hashlib.sha256).hexdigest()
