"""Clean stories with pure rules that keep, fix or drop each one.

Input: the text of a story. Output: the cleaned text and the rules that changed it, or the reason to drop it.
Pitfall: the order of the rules matters: the end of a story is checked before any rule removes text there.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from ftfy import fix_encoding

from smalltale.corpus.batch import Batch
from smalltale.corpus.document import SourceDocument

DROP_REASONS = {
    "empty": "no words",
    "binary": "NUL bytes or many other control characters",
    "not UTF-8": "bytes that are neither UTF-8 nor Windows-1252",
    "lost characters": "the replacement character U+FFFD that no rule can undo",
    "html": "tags left over from a web page",
    "link": "a web or e-mail address",
    "code": "program text or markup",
    "truncated": "the last sentence has no end",
    "beginning cut off": "the first sentence has no beginning",
    "prompt echo": "repeats the prompt it was generated from, such as 'Words: …'",
    "refusal": "a language model refuses or speaks about itself",
    "very short": "fewer than corpus.minimum_words words",
    "very long": "more than 20,000 characters",
    "digits": "more than 3 % digits",
    "odd signs": "letters of another script",
    "not English": "too few of the common English words",
    "unsafe path": "an archive member whose path leads out of the archive",
    "broken line": "not valid JSON, or no text in it",
}
"""What each drop reason of the readers and of this step means."""

FIXES = {
    "mojibake": "UTF-8 decoded as Windows-1252 and encoded again",
    "closing quote": "a closing quote that lost its last byte",
    "quotes": "curly, angled and doubled quotes replaced by straight ones",
    "white space": "line ends, tabs, repeated spaces and blank lines, trailing spaces",
    "control characters": "invisible characters removed",
    "entities": "HTML entities and simple tags such as <br> resolved",
    "markdown": "marks for emphasis and headings removed",
    "the end": "'The end.' after the last sentence removed",
    "signs": "emoji and ornaments removed, ligatures and full-width letters replaced",
    "capital": "the first letter capitalized",
}
"""What each rule fixes."""

MAX_CHARACTERS = 20_000
MOJIBAKE = re.compile("[ÂÃâðï][\x80-ÿ€-™Œ-žˆ˜ƒ ]|�")
LOST_QUOTE = re.compile('â€(?:["\x9d](?!["”]))?(?=\\s|$|[A-Za-z.,!?;:)\'"])')
MOJIBAKE_DASH = re.compile(r'(?<=\w)â€"(?=\w)')
LOST_APOSTROPHE = re.compile("(?<=[a-z])�(?=(?:s|t|m|d|re|ve|ll)\\b)")
INVISIBLE = re.compile(
    "[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe0f\ufeff]"
)
WHITE_SPACE = re.compile("[\t\r\x85\xa0\u2000-\u200a\u2028\u2029\u202f\u3000]|  | \n|\n \n?|\n\n\n")
DOUBLE_QUOTES = re.compile("[“”„‟«»″]|``|''|\"\"+")
SINGLE_QUOTES = re.compile("[‘’‚‛‹›′`´]")
ENDING = re.compile("[.!?…][\"'”’)\\]]*\\Z")
MIDDLE = re.compile("[\"“'‘(]?[a-z,;:.!?)]")
PLAIN_OPENING = re.compile("(?:once|one|there|long|in|on|at|a|the|it)\\b")
ENTITY = re.compile("&(?:[a-zA-Z]{2,8}|#\\d{1,6}|#x[0-9a-fA-F]{1,6});")
PLAIN_TAG = re.compile("</?(?:br|p|i|b|em|strong|u|span|div)\\s*/?>", re.IGNORECASE)
TAG = re.compile("<[/!]?[a-zA-Z][^<>\n]{0,200}>|<!--|\\[/?[a-z]{1,5}\\]")
LINK = re.compile("https?:|www\\.|\\b[\\w.]+@[\\w]+\\.\\w", re.IGNORECASE)
CODE = re.compile(
    "[{}\\\\]|```|=>|==|\\+\\+|;\\s*\n|\\bdef \\w+\\(|#include|\\bfunction\\s*\\w*\\(|\\b(?:var|let|const) \\w+ =|^\\s*(?:import|from) \\w+(?:\\.\\w+)* ?(?:import|$)",
    re.MULTILINE,
)
MARKDOWN = re.compile("\\*+|(?:^|\n)#{1,6} |(?<!\\w)_+|_+(?!\\w)|(?:^|\n)[-=~_]{3,}(?=\n|$)")
THE_END = re.compile("(?:(?<=[.!?\"'])[ ]|\n|\\A)\\s*[\"'(\\[*-]*the end[.!?)\\]*\"' -]*\\Z", re.IGNORECASE)
PROMPT_ECHO = re.compile(
    "(?:^|\n)\\W{0,3}(?:(?:random |required )?words?|features?|summary|instructions?|prompts?|random sentence|story|dialogue|task|output|response|assistant|user|title)\\W{0,2}:"
    "|\\A\\W{0,3}(?:(?:sure|certainly|of course|okay)\\b\\W{0,3})?(?:here(?:'s| is) (?:a|the|your) |write (?:a|an|the) )(?:\\w+ ){0,3}story\\b"
    "|\\b(?:using|use|contains?|includes?) (?:all )?(?:of )?the (?:following words?\\b|words? ?:)",
    re.IGNORECASE,
)
REFUSAL_HINTS = ("an ai", "as a lan", "language model", "openai", "gpt", "sorry, ", "unable to", "i cannot ", "i can't ")  # fmt: skip
"""A text without these strings cannot match REFUSAL; searching for them is faster."""
REFUSAL = re.compile(
    "\\bas an? (?:ai|artificial|language)\\b|\\blanguage model\\b|\\bopenai\\b|\\bchat ?gpt\\b"
    "|\\bi(?:'m| am) (?:sorry|unable),? (?:but )?(?:i )?(?:can(?:'t|not)|to|am unable to) (?:write|create|generate|fulfill|assist|provide|continue|complete)\\b"
    "|\\bi (?:can(?:'t|not)|am unable to) (?:write|create|generate|fulfill|provide) (?:a|this|that|the|your|any)\\b(?=[^.\n]{0,40}\\b(?:story|request|content))",
    re.IGNORECASE,
)
UNUSUAL_CHARACTER = re.compile("[\x00-\x09\x0b-\x1f\x7f<>&{}\\\\*#_`=|~^+;@\\[\\]]")
UNUSUAL_STRINGS = ("  ", " \n", "\n ", "\n\n\n", '""', "''", "www", "://", "\nimport ", "\nfrom ")
"""A text without UNUSUAL_CHARACTER and these strings skips most rules, which could not match."""
UNSUPPORTED_CHARACTER = re.compile("[^\n -~\xa1-\u024f–—…€]")
FOREIGN_LETTER = re.compile("[\u0370-\u1fff\u2e80-\ud7ff\uf900-\ufdff]")
DIGITS = re.compile("\\d")
COMMON_WORDS = frozenset(
    """a about after all an and are as asked at be because been but by came can could day did do down for
    from get go had happy has have he her him his i if in into is it its like little liked looked made
    me more mom my new no not of on one or other out play put said saw see she so some that the their
    them then there they this time to too up very wanted was we went were what when where which who will
    with would you your""".split()  # noqa: SIM905
)
COMMON_SHARE = 0.2
"""About half of the words of English prose are in COMMON_WORDS, under a tenth of those of other languages."""
DIGIT_SHARE = 0.03


@dataclass(frozen=True)
class CleanStories:
    """Step: clean each document."""

    minimum_words: int

    def __call__(self, batch: Batch) -> Batch:
        return batch.map_kept(lambda document: clean_story(document, self.minimum_words))


def strip_stories(batch: Batch) -> Batch:
    """Step: remove white space at both ends, for a build without cleaning."""
    return batch.map_kept(lambda document: document._replace(text=document.text.strip()))


def clean_story(document: SourceDocument, minimum_words: int) -> SourceDocument:
    """Return the document with its text fixed and the names of the rules that changed it, or with a drop reason."""
    if len(document.text) > MAX_CHARACTERS:
        return document._replace(reason="very long")
    text, fixes = document.text.strip(), list[str]()
    if not text:
        return document._replace(reason="empty")
    is_unusual = (
        not text.isascii() or bool(UNUSUAL_CHARACTER.search(text)) or contains_any(text, UNUSUAL_STRINGS)
    )
    if is_unusual:
        if "\x00" in text or len(INVISIBLE.findall(text)) * 20 > len(text):
            return document._replace(reason="binary")
        text = apply_rules(text, EARLY_FIXES, fixes)
        if reason := check_markup(text):
            return document._replace(reason=reason)
    if reason := check_ends(text):
        return document._replace(reason=reason)
    text = apply_rules(text, LATE_FIXES if is_unusual else LAST_FIXES, fixes)
    if reason := check_words(text, minimum_words):
        return document._replace(reason=reason)
    if not fixes:
        return document._replace(text=text)
    # A fix can make another rule apply: without the ornament between them, two quotes are a doubled quote.
    cleaned = clean_story(document._replace(text=text), minimum_words)
    if cleaned.reason:
        return document._replace(reason=cleaned.reason)
    return cleaned._replace(fixes=tuple(dict.fromkeys((*fixes, *cleaned.fixes))))


def apply_rules(text: str, rules: tuple[Rule, ...], fixes: list[str]) -> str:
    """Apply rules in order and append the names of those that change the text to `fixes`."""
    for name, rule in rules:
        before, text = text, rule(text)
        if text != before:
            fixes.append(name)
    return text


def check_markup(text: str) -> str | None:
    if "\ufffd" in text:
        return "lost characters"
    for reason, pattern in (("html", TAG), ("link", LINK), ("code", CODE)):
        if pattern.search(text):
            return reason
    return None


def check_ends(text: str) -> str | None:
    """Check that a story begins with a capital letter and ends at the end of a sentence."""
    if not ENDING.search(text[-12:]):
        # A guillemet at the end closes no English quote: the one TinyStories sample that has one is truncated.
        return "truncated"
    if MIDDLE.match(text) and not PLAIN_OPENING.match(text) and not text.startswith("..."):
        return "beginning cut off"
    return None


def check_words(text: str, minimum_words: int) -> str | None:
    """Check the words of a fixed story."""
    lowered = text.lower()
    if (":" in text or "story" in lowered[:200] or "words" in lowered) and PROMPT_ECHO.search(text):
        return "prompt echo"
    if contains_any(lowered, REFUSAL_HINTS) and REFUSAL.search(lowered):
        return "refusal"
    words = lowered.split()
    if len(words) < minimum_words:
        return "very short"
    half = len(words) // 2
    first = sum(map(COMMON_WORDS.__contains__, words[:half]))
    second = sum(map(COMMON_WORDS.__contains__, words[half:]))
    if first + second < COMMON_SHARE * len(words):
        return "not English"
    if half >= 30 and min(first, second) < COMMON_SHARE / 2 * half:
        return "not English"
    if DIGITS.search(text) and len(DIGITS.findall(text)) > DIGIT_SHARE * len(text):
        return "digits"
    if not text.isascii() and FOREIGN_LETTER.search(text):
        return "odd signs"
    return None


def contains_any(text: str, strings: tuple[str, ...]) -> bool:
    for string in strings:  # noqa: SIM110  a generator takes twice as long, and this runs for every story
        if string in text:
            return True
    return False


def fix_closing_quote(text: str) -> str:
    """Restore closing quotes: E2 80 9D in UTF-8, of which `â€` remains because Windows-1252 has no 9D.

    Runs before ftfy, which reads `â€` and a space as a dagger (46 of the 234 in the V1 validation file).
    """
    if "â€" not in text:
        return text
    return LOST_QUOTE.sub("”", MOJIBAKE_DASH.sub("—", text))


def fix_mojibake(text: str) -> str:
    if text.isascii() or not MOJIBAKE.search(text):
        return text
    text = fix_encoding(text)
    return LOST_APOSTROPHE.sub("'", text).replace("â€", "”")


def fix_entities(text: str) -> str:
    if "&" in text and ENTITY.search(text):
        text = html.unescape(text)
    if "<" not in text:
        return text
    return PLAIN_TAG.sub(lambda tag: "\n" if tag[0][1:3].lower() == "br" else "", text)


def fix_white_space(text: str) -> str:
    if not WHITE_SPACE.search(text):
        return text
    text = re.sub("\r\n?|[\x85\u2028\u2029]", "\n", text)
    text = re.sub("[^\\S\n]+", " ", text)
    return re.sub("\n{3,}", "\n\n", re.sub(" ?\n ?", "\n", text)).strip()


def fix_symbols(text: str) -> str:
    """Replace compatibility forms, then remove emoji, ornaments and marks of other scripts; letters stay."""
    if text.isascii():
        return text
    if not UNSUPPORTED_CHARACTER.search(text):
        return unicodedata.normalize("NFC", text)
    normalized = unicodedata.normalize("NFKC", text.replace("…", "\0")).replace("\0", "…")
    letters_only = UNSUPPORTED_CHARACTER.sub(lambda match: match[0] if match[0].isalpha() else "", normalized)
    return fix_white_space(letters_only)


def fix_quotes(text: str) -> str:
    text = SINGLE_QUOTES.sub("'", DOUBLE_QUOTES.sub('"', text))
    return re.sub('""+', '"', text) if '""' in text else text


def remove_the_end(text: str) -> str:
    if "end" not in text[-20:].lower():
        return text
    return (text[:-40] + THE_END.sub("", text[-40:])).rstrip()


def fix_capital(text: str) -> str:
    return text[0].upper() + text[1:] if text[:1].islower() else text


Rule = tuple[str, Callable[[str], str]]
"""A name in FIXES, and the function that returns the fixed text."""
EARLY_FIXES: tuple[Rule, ...] = (
    ("closing quote", fix_closing_quote),
    ("mojibake", fix_mojibake),
    ("control characters", lambda text: INVISIBLE.sub("", text)),
    ("entities", fix_entities),
    ("white space", fix_white_space),
    ("markdown", lambda text: MARKDOWN.sub("", text).strip()),
)
"""Rules that run before the ends of the story are checked."""
LAST_FIXES: tuple[Rule, ...] = (("the end", remove_the_end), ("capital", fix_capital))
LATE_FIXES: tuple[Rule, ...] = (("quotes", fix_quotes), ("signs", fix_symbols), *LAST_FIXES)
"""Rules that run after the ends are checked; LAST_FIXES alone run on a text without unusual characters."""
