"""Generate children's stories from a grammar, for tests, trials and machines without a network.

Input: a seed and a count. Output: that many different stories of 60 to 250 words, the same bytes on every platform.
Pitfall: these are not TinyStories; results on them must be labelled fable.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files as package_files
from random import Random

from smalltale.corpus.fable import word_lists

FABLE_VERSION = 1
SLOT = re.compile(r"\{(\w+)\}")
SENTENCE_START = re.compile(r'(^|[.!?] |\." )("?)([a-z])')
GRAMMAR = tomllib.loads((package_files("smalltale.corpus.fable") / "grammar.toml").read_text("utf-8"))
SHARED: dict[str, list[str]] = GRAMMAR["shared"]
PLOTS: dict[str, dict[str, list[str]]] = GRAMMAR["plots"]
PLOT_NAMES = tuple(sorted(PLOTS))
RANDOM_SLOTS = {
    "ADJ": word_lists.ADJECTIVES,
    "ANIMAL": word_lists.ANIMALS,
    "THING": word_lists.THINGS,
    "PLACE": word_lists.PLACES,
    "COLOUR": word_lists.COLOURS,
    "FOOD": word_lists.FOODS,
    "FEELING": word_lists.FEELINGS,
    "JOB": word_lists.JOBS,
    "ADVERB": word_lists.ADVERBS,
    "WEATHER": word_lists.WEATHER,
    "SEASON": word_lists.SEASONS,
    "TIME": word_lists.TIMES,
    "PLANT": word_lists.PLANTS,
    "SOUND": word_lists.SOUNDS,
    "KIN": word_lists.KIN,
    "MATERIAL": word_lists.MATERIALS,
    "VERB": word_lists.VERBS,
    "number": word_lists.NUMBERS,
}
"""Slots that get a new random word at every use."""
FIXED_SLOTS = {
    slot: RANDOM_SLOTS[slot.removesuffix("2").upper()]
    for slot in word_lists.words(
        "adj adj2 animal animal2 thing place place2 food job kin time weather season plant"
    )
} | {"time": word_lists.TIMES[:8]}
"""Slots that keep one word through a story, in the order in which the words are drawn."""
HER = {"child": "girl", "he": "she", "him": "her", "his": "her", "himself": "herself"}
HIM = {"child": "boy", "he": "he", "him": "him", "his": "his", "himself": "himself"}


def generate_stories(seed: int, count: int, start: int = 0) -> Iterator[str]:
    """Yield stories `start` to `start + count` of the infinite sequence of `seed`."""
    for number in range(start, start + count):
        yield generate_story(seed, number)


def generate_story(seed: int, number: int) -> str:
    """Return story `number` of the sequence of `seed`."""
    # A text seed is hashed with SHA-512 and random() is specified, so the bytes are equal on every platform.
    return StoryWriter(Random(f"fable {FABLE_VERSION} {seed} {number}")).write_story()


class StoryWriter:
    """Writes one story: a random generator and the words of its fixed slots."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.words = {slot: self.pick(words) for slot, words in FIXED_SLOTS.items()}
        is_girl = random.random() < 0.5
        self.words |= HER if is_girl else HIM
        self.words["hero"] = self.pick(word_lists.GIRLS if is_girl else word_lists.BOYS)
        self.words["friend"] = self.pick(word_lists.BOYS if random.random() < 0.5 else word_lists.GIRLS)
        while self.words["place2"] == self.words["place"]:
            self.words["place2"] = self.pick(word_lists.PLACES)
        while self.words["friend"] == self.words["hero"]:
            self.words["friend"] = self.pick(word_lists.GIRLS)

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.random.random() * len(options))]

    def write_story(self) -> str:
        plot = PLOTS[self.pick(PLOT_NAMES)]
        self.words["lesson"] = str(plot["lesson"])
        paragraphs = [
            [SHARED["openings"], SHARED["scenes"], SHARED["scenes"]],
            [plot["problem"], SHARED["feels"]],
            [SHARED["meetings"], SHARED["talks"], plot["attempt"]],
            [plot["solution"], SHARED["endings"], SHARED["morals"]],
        ]
        if self.random.random() < 0.4:
            paragraphs[2].append(SHARED["talks"])
        separator = "\n\n" if self.random.random() < 0.5 else "\n"
        used: set[str] = set()
        return separator.join(
            " ".join(filter(None, (self.write_beat(templates, used) for templates in paragraph)))
            for paragraph in paragraphs
        )

    def write_beat(self, templates: Sequence[str], used: set[str]) -> str:
        """Fill a template that the story has not used yet and capitalize its sentences."""
        template = self.pick(templates)
        while template in used and template:
            template = self.pick(templates)
        used.add(template)
        text = SLOT.sub(lambda slot: self.fill_slot(slot[1]), template)
        return SENTENCE_START.sub(lambda start: start[1] + start[2] + start[3].upper(), text)

    def fill_slot(self, slot: str) -> str:
        article = ""
        if slot[:2] in ("a_", "A_"):
            article, slot = slot[0], slot[2:]
        if slot in RANDOM_SLOTS:
            word = self.pick(RANDOM_SLOTS[slot])
        elif slot in self.words:
            word = self.words[slot]
        else:  # {He}, {His}: a capitalized pronoun
            word = self.words[slot.lower()].capitalize()
        return f"{article}{'n' if word[0] in 'aeiou' else ''} {word}" if article else word
