"""What can be seen in one story without a model: loops, its ending, an echoed prompt, words meant for the judge.

In: text. Out: plain facts.
Beware: these are hints for people and warnings for contestants; none of them refuses a hand-in.
"""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections.abc import Sequence

from smalltale.files import END_OF_STORY

SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"'”’)]*|[^.!?\n]+")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
GRADER = r"(?:judge|grader|evaluator|examiner|assessor|marker|reviewer|jury|llm|ai)s?"
JUDGE_DIRECTED = re.compile(
    "|".join(
        (
            # orders
            r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:instructions?|rubric|criteria|above|previous)\b",
            r"\b(?:text|story|exercise|completion) above\b",
            r"\b(?:copy|repeat|use) th(?:e|is|ese) (?:marks?|scores?|grades?)\b",
            # whoever reads it for a mark
            rf"\b(?:as|dear|you are|you're)\s+(?:an?\s+|the\s+)?{GRADER}\b",
            rf"\b(?:note|message|instructions?|reminder)\s+(?:to|for)\s+(?:the\s+|all\s+|any\s+|my\s+)?(?:{GRADER}|teacher|assistant)\b",
            r"\b(?:teacher's note|student's (?:text|part)|json|rubric|system prompt|language model)\b",
            # marks
            r"\b(?:give|rate|score|grade|marks|award)\b[^.\n]{0,40}\b(?:10|ten)\b[^.\n]{0,20}",
            r"\b(?:10\s?/\s?10|(?:10|ten) out of (?:10|ten)|full marks|(?:highest|perfect|maximum) (?:score|mark|grade|rating)s?)\b",
            r"\b(?:this|my|the) (?:story|text|completion|exercise|piece) (?:deserves|(?:must|should) (?:get|receive|score|be (?:given|rated|graded|scored|marked)))\b",
            r"\b(?:first|second|better) (?:piece|completion)\b",
            # a forged answer, a forged end of the exercise, a forged turn of the conversation
            r"\b(?:grammar|creativity|consistency|plot)[\"']?\s?(?:[:=]|is|gets)?\s?(?:\d|ten\b)",
            r"\{\s{0,9}[\"'][a-z_ ]{1,40}[\"']\s?:",
            r"\bthe (?:exercise|evaluation|grading|marking|assessment) (?:is|was) (?:now )?(?:over|complete|finished|done|marked)\b",
            r"^[ \t#>*]*(?:system|user|human|assistant|developer|instruction|response)\s?:|\bassistant\s?:|#\s?(?:instruction|response)",
            r"<\|[a-z_ ]{1,40}\|>|[\[(]\|?/?(?:inst|system|user|assistant|endofturn)\|?[\])]|</?s>|<(?:start|end)_of_turn>",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)
"""Of a text in plain letters. Every repetition is bounded, because whoever writes the text may want it to take long."""
SQUEEZED = re.compile(
    r"(?:ignore|disregard|forget)(?:all|any|the|my|your|these|those)?(?:previous|prior|above|earlier)?(?:instruction|rubric)"
    r"|dear(?:judge|grader|examiner|evaluator)|(?:10|ten)outof(?:10|ten)"
    r"|(?:give|rate|score|grade)(?:this|the|my|it|a)?(?:story|text|piece)?(?:a|an)?(?:10|ten|perfectscore|fullmarks|highestscore)(?!\d)"
)
"""Of its letters and digits alone: words pulled apart or run together."""
LIKE_LATIN = [
    "аa",
    "вb",
    "гr",
    "еe",
    "ѕs",
    "іi",
    "јj",
    "кk",
    "ӏl",
    "мm",
    "нh",
    "оo",
    "пn",
    "рp",
    "сc",
    "тt",
    "уy",
    "хx",
    "һh",
    "ԁd",
    "ԛq",
    "ԝw",
    "ѵv",
    "αa",
    "βb",
    "γy",
    "εe",
    "ηn",
    "ιi",
    "κk",
    "νv",
    "οo",
    "ρp",
    "τt",
    "υu",
    "χx",
    "ωw",
    "ոn",
    "սu",
    "հh",
    "օo",
    "ցg",
    "ᴀa",
    "ʙb",
    "ᴄc",
    "ᴅd",
    "ᴇe",
    "ɢg",
    "ʜh",
    "ɪi",
    "ᴊj",
    "ᴋk",
    "ʟl",
    "ᴍm",
    "ɴn",
    "ᴏo",
    "ᴘp",
    "ʀr",
    "ᴛt",
    "ᴜu",
    "ᴠv",
    "ᴡw",
    "ʏy",
    "ᴢz",
    "ıi",
    "ɑa",
    "ɡg",
    "øo",
    "łl",
    "‹<",
    "›>",
    "〈<",
    "〉>",
    "⟨<",
    "⟩>",
    "≺<",
    "≻>",
    "’'",
    "‘'",
    "ʼ'",
    '“"',
    '”"',
    "∕/",
    "⁄/",
    "ǀ|",
    "∣|",
]
LATIN = {each[0]: each[1] for each in LIKE_LATIN} | {
    chr(first + place): letter
    for first in (0x1F150, 0x1F170, 0x1F1E6)
    for place, letter in enumerate(string.ascii_lowercase)
}
"""Signs that look like another, for those that Unicode itself does not call its variant (NFKD)."""
DIGITS_AS_LETTERS = str.maketrans("013457", "oieast")
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs that no reader sees: the Hangul fillers and the empty Braille cell."""
BLANK_MARKS = "\u034f\u180b\u180c\u180d\u180f"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
SELECTORS = (range(0xFE00, 0xFE10), range(0xE0000, 0xE1000))
"""Variation selectors and tags, which show nothing and may carry a hidden text."""


def split_sentences(story: str) -> list[str]:
    """The sentences of a story, white space at their ends removed."""
    found = (match.group().strip() for match in SENTENCE.finditer(story))
    return [sentence for sentence in found if sentence]


def count_repeated_sentences(story: str) -> int:
    """How many sentences repeat an earlier one of at least four words."""
    seen: set[str] = set()
    repeated = 0
    for sentence in split_sentences(story):
        repeat_words = re.findall(r"\w+", sentence.lower())
        key = " ".join(repeat_words)
        if len(repeat_words) >= 4 and key in seen:
            repeated += 1
        seen.add(key)
    return repeated


def ends_properly(story: str) -> bool:
    """Whether the last sentence is finished and its quotes closed."""
    text = story.rstrip()
    last = text.splitlines()[-1] if text else ""
    return has_closed_quotes(last) and text.rstrip("\"'”’)")[-1:] in {".", "!", "?"}


def has_closed_quotes(text: str) -> bool:
    """Whether every opened double quotation mark is closed."""
    return text.count("“") <= text.count("”") and text.count('"') % 2 == 0


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return WORD.findall(text.lower().replace("’", "'"))


def word_bigrams(text: str) -> set[tuple[str, str]]:
    """The pairs of neighbouring words."""
    said = split_words(text)
    return set(itertools.pairwise(said))


def repeated_ngram_share(said: list[str], length: int = 4) -> float:
    """Share of the word runs of that length that stood earlier in the text."""
    runs = [tuple(said[place : place + length]) for place in range(len(said) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def find_names(text: str) -> set[str]:
    """Words that look like names: written with a capital inside a sentence, and never small in this text."""
    small = set(re.findall(r"\b[a-z]+\b", text))
    inside = re.findall(r"(?<=[a-z,] )([A-Z][a-z]+)\b", text)
    return {each for each in inside if each.lower() not in small}


def pronoun_share(text: str) -> float | None:
    """Share of she among he and she (their forms counted); None where there is neither."""
    said = split_words(text)
    she = sum(each in {"she", "her", "hers", "herself"} for each in said)
    he = sum(each in {"he", "him", "his", "himself"} for each in said)
    return she / (she + he) if she + he else None


def echoes_prompt(prompt: str, completion: str) -> bool:
    """Whether a completion begins with its prompt again."""
    return completion.strip().startswith(prompt.strip())


def strip_prompt_and_end_mark(prompt: str, completion: str) -> str:
    """The completion without its prompt repeated before it and without what follows the end-of-story mark."""
    text = completion.strip()
    return text.removeprefix(prompt.strip()).partition(END_OF_STORY)[0].strip()


def find_judge_directed_text(story: str) -> list[str]:
    """The passages that speak to a judge instead of a child."""
    return [story[begin:end].strip() for begin, end in find_judge_directed_spans(story)]


def find_judge_directed_spans(story: str) -> list[tuple[int, int]]:
    """Where a text speaks to a judge: begin and end of each passage, in order.

    Seen through letters of other alphabets, marks on letters, what is not drawn, and words pulled apart or run together;
    not in other languages nor in a cipher.
    """
    plain, places = fold_to_latin(story)
    kept = [place for place, each in enumerate(plain) if each.isalnum()]
    near = "".join(plain[place] for place in kept).lower()
    found = [(places[each.start()], places[each.end() - 1]) for each in JUDGE_DIRECTED.finditer(plain)]
    for text in (near, near.translate(DIGITS_AS_LETTERS)):
        matches = SQUEEZED.finditer(text)
        found += [(places[kept[each.start()]], places[kept[each.end() - 1]]) for each in matches]
    return sorted({(begin, end + 1) for begin, end in found})


def fold_to_latin(text: str) -> tuple[str, Sequence[int]]:
    """A text as it is read, in plain Latin letters without marks, and for each of them its place in the text."""
    if text.isascii() and not CONTROL.search(text):
        return text, range(len(text))
    letters, places = [], []
    for place, each in enumerate(text):
        for part in each if each.isascii() else unicodedata.normalize("NFKD", each):
            if is_rendered(part) and not unicodedata.combining(part):
                letters.append(LATIN.get(part.lower(), part))
                places.append(place)
    return "".join(letters), places


def is_rendered(character: str) -> bool:
    """Whether a character shows anything, or is white space: controls, joiners, selectors and tags do not."""
    if character in "\n\t":
        return True
    unseen = character in BLANK_LETTERS + BLANK_MARKS or any(ord(character) in each for each in SELECTORS)
    return not unseen and unicodedata.category(character) not in {"Cc", "Cf", "Co", "Cs"}


def has_visible_text(text: str) -> bool:
    """Whether a text has anything a reader would see."""
    return any(unicodedata.category(each)[0] in "LNPS" and each not in BLANK_LETTERS for each in text)
