"""Signals of a single story that need no model: repeated sentences, its ending, an echoed prompt, text addressed to a judge.

Input: text. Output: counts, shares, spans.
Note: they are hints for people and warnings for contestants; none of them refuses a submission.
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
            # orders to the judge
            r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:instructions?|rubric|criteria|above|previous)\b",
            r"\b(?:text|story|exercise|completion) above\b",
            r"\b(?:copy|repeat|use) th(?:e|is|ese) (?:marks?|scores?|grades?)\b",
            # addressing the grader
            rf"\b(?:as|dear|you are|you're)\s+(?:an?\s+|the\s+)?{GRADER}\b",
            rf"\b(?:note|message|instructions?|reminder)\s+(?:to|for)\s+(?:the\s+|all\s+|any\s+|my\s+)?(?:{GRADER}|teacher|assistant)\b",
            r"\b(?:teacher's note|student's (?:text|part)|json|rubric|system prompt|language model)\b",
            # demands for a grade
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
"""Matched against the text folded to Latin letters. Every repetition is bounded: the text is untrusted and may aim at slow matching."""
SQUEEZED = re.compile(
    r"(?:ignore|disregard|forget)(?:all|any|the|my|your|these|those)?(?:previous|prior|above|earlier)?(?:instruction|rubric)"
    r"|dear(?:judge|grader|examiner|evaluator)|(?:10|ten)outof(?:10|ten)"
    r"|(?:give|rate|score|grade)(?:this|the|my|it|a)?(?:story|text|piece)?(?:a|an)?(?:10|ten|perfectscore|fullmarks|highestscore)(?!\d)"
)
"""Matched against the letters and digits alone, to see through words that are spaced out or run together."""
LIKE_LATIN = (
    "аa вb гr еe ѕs іi јj кk ӏl мm нh оo пn рp сc тt уy хx һh ԁd ԛq ԝw ѵv αa βb γy εe ηn ιi κk νv οo ρp τt "
    "υu χx ωw ոn սu հh օo ցg ᴀa ʙb ᴄc ᴅd ᴇe ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ʀr ᴛt ᴜu ᴠv ᴡw ʏy ᴢz ıi ɑa ɡg øo łl "
    "‹< ›> 〈< 〉> ⟨< ⟩> ≺< ≻> ’' ‘' ʼ' “\" ”\" ∕/ ⁄/ ǀ| ∣|"
)
"""Pairs of a look-alike and the Latin character that it looks like."""
LATIN = {pair[0]: pair[1] for pair in LIKE_LATIN.split()} | {
    chr(first + offset): letter
    for first in (0x1F150, 0x1F170, 0x1F1E6)  # circled, squared and regional-indicator letters
    for offset, letter in enumerate(string.ascii_lowercase)
}
"""The Latin character of each look-alike that Unicode's NFKD does not already map to it."""
DIGITS_AS_LETTERS = str.maketrans("013457", "oieast")
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Characters of a visible category that show nothing: the Hangul fillers and the empty Braille cell."""
BLANK_MARKS = "\u034f\u180b\u180c\u180d\u180f"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
SELECTORS = (range(0xFE00, 0xFE10), range(0xE0000, 0xE1000))
"""Variation selectors and tags, which show nothing and can carry hidden text."""


def split_sentences(story: str) -> list[str]:
    """The sentences of a story, stripped."""
    matches = (match.group().strip() for match in SENTENCE.finditer(story))
    return [sentence for sentence in matches if sentence]


def count_repeated_sentences(story: str) -> int:
    """Number of sentences that repeat an earlier one of at least four words."""
    seen: set[str] = set()
    repeated = 0
    for sentence in split_sentences(story):
        words = re.findall(r"\w+", sentence.lower())
        key = " ".join(words)
        if len(words) >= 4 and key in seen:
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
    """The pairs of adjacent words."""
    return set(itertools.pairwise(split_words(text)))


def repeated_ngram_share(words: list[str], length: int = 4) -> float:
    """Share of the n-grams of that length that occur earlier in the text."""
    ngrams = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def find_names(text: str) -> set[str]:
    """Words that look like names: capitalised inside a sentence, and never in lower case in this text."""
    lower_case = set(re.findall(r"\b[a-z]+\b", text))
    capitalised = re.findall(r"(?<=[a-z,] )([A-Z][a-z]+)\b", text)
    return {word for word in capitalised if word.lower() not in lower_case}


def pronoun_share(text: str) -> float | None:
    """Share of she among all forms of he and she; None without either."""
    words = split_words(text)
    she = sum(word in {"she", "her", "hers", "herself"} for word in words)
    he = sum(word in {"he", "him", "his", "himself"} for word in words)
    return she / (she + he) if she + he else None


def echoes_prompt(prompt: str, completion: str) -> bool:
    """Whether a completion starts by repeating its prompt."""
    return completion.strip().startswith(prompt.strip())


def strip_prompt_and_end_mark(prompt: str, completion: str) -> str:
    """The completion without a repeated prompt in front and without anything after the end-of-story mark."""
    text = completion.strip()
    return text.removeprefix(prompt.strip()).partition(END_OF_STORY)[0].strip()


def find_judge_directed_text(story: str) -> list[str]:
    """The passages that address a judge instead of telling the story."""
    return [story[start:end].strip() for start, end in find_judge_directed_spans(story)]


def find_judge_directed_spans(story: str) -> list[tuple[int, int]]:
    """Start and end of each passage that addresses a judge, in order.

    Sees through letters of other alphabets, diacritics, invisible characters, and words spaced out or run together; not
    through other languages or ciphers.
    """
    folded, offsets = fold_to_latin(story)
    alphanumeric = [index for index, char in enumerate(folded) if char.isalnum()]
    squeezed = "".join(folded[index] for index in alphanumeric).lower()
    spans = [(offsets[match.start()], offsets[match.end() - 1]) for match in JUDGE_DIRECTED.finditer(folded)]
    for text in (squeezed, squeezed.translate(DIGITS_AS_LETTERS)):
        spans += [
            (offsets[alphanumeric[match.start()]], offsets[alphanumeric[match.end() - 1]])
            for match in SQUEEZED.finditer(text)
        ]
    return sorted({(start, last + 1) for start, last in spans})


def fold_to_latin(text: str) -> tuple[str, Sequence[int]]:
    """The visible text in plain Latin letters without diacritics, and the offset in `text` of each of its characters."""
    if text.isascii() and not CONTROL.search(text):
        return text, range(len(text))
    letters, offsets = [], []
    for offset, char in enumerate(text):
        for part in char if char.isascii() else unicodedata.normalize("NFKD", char):
            if is_rendered(part) and not unicodedata.combining(part):
                letters.append(LATIN.get(part.lower(), part))
                offsets.append(offset)
    return "".join(letters), offsets


def is_rendered(character: str) -> bool:
    """Whether a character shows anything or is white space: controls, joiners, selectors and tags do not."""
    if character in "\n\t":
        return True
    is_blank = character in BLANK_LETTERS + BLANK_MARKS or any(ord(character) in codes for codes in SELECTORS)
    return not is_blank and unicodedata.category(character) not in {"Cc", "Cf", "Co", "Cs"}


def has_visible_text(text: str) -> bool:
    """Whether a text has any visible character."""
    return any(unicodedata.category(char)[0] in "LNPS" and char not in BLANK_LETTERS for char in text)
