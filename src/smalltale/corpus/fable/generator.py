"""fable: children's stories from a grammar of our own, for tests, trials and machines without a network.

In: a seed and a count. Out: so many different stories of 60 to 250 words, the same bytes on every platform.
Beware: these are not TinyStories; whatever is made from them is to be called by the name fable.
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
SENTENCE = re.compile(r'(^|[.!?] |\." )("?)([a-z])')
GRAMMAR = tomllib.loads(
    (package_files("smalltale.corpus.fable") / "grammar.toml").read_text(encoding="utf-8")
)
SHARED: dict[str, list[str]] = GRAMMAR["shared"]
PLOTS: dict[str, dict[str, list[str]]] = GRAMMAR["plots"]
LESSONS: dict[str, str] = {name: plot["lesson"] for name, plot in GRAMMAR["plots"].items()}
PLOT_NAMES = tuple(sorted(PLOTS))
NUMBERS = word_lists.words("two three four five six seven eight nine ten eleven twelve twenty")
FRESH = {
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
    "number": NUMBERS,
}
KEPT = {
    "adj": word_lists.ADJECTIVES,
    "adj2": word_lists.ADJECTIVES,
    "animal": word_lists.ANIMALS,
    "animal2": word_lists.ANIMALS,
    "thing": word_lists.THINGS,
    "place": word_lists.PLACES,
    "place2": word_lists.PLACES,
    "food": word_lists.FOODS,
    "job": word_lists.JOBS,
    "kin": word_lists.KIN,
    "time": word_lists.TIMES[:8],
    "weather": word_lists.WEATHER,
    "season": word_lists.SEASONS,
    "plant": word_lists.PLANTS,
}
HER = {"child": "girl", "he": "she", "him": "her", "his": "her", "himself": "herself"}
HIM = {"child": "boy", "he": "he", "him": "him", "his": "his", "himself": "himself"}


def generate_stories(seed: int, count: int, start: int = 0) -> Iterator[str]:
    """Stories `start` to `start + count` of the endless row that `seed` names; no two of a row are the same draw."""
    for number in range(start, start + count):
        yield generate_story(seed, number)


def generate_story(seed: int, number: int) -> str:
    """Story `number` of the row that `seed` names."""
    # Seeding by text goes through SHA-512 and random() is specified, so the bytes are equal on every platform.
    return Telling(Random(f"fable {FABLE_VERSION} {seed} {number}")).tell()


class Telling:
    """One story while it is told: its source of chance and what its kept slots hold."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.kept = {slot: self.pick(options) for slot, options in KEPT.items()}
        girl = chance.random() < 0.5
        self.kept |= HER if girl else HIM
        self.kept["hero"] = self.pick(word_lists.GIRLS if girl else word_lists.BOYS)
        self.kept["friend"] = self.pick(word_lists.BOYS if chance.random() < 0.5 else word_lists.GIRLS)
        while self.kept["place2"] == self.kept["place"]:
            self.kept["place2"] = self.pick(word_lists.PLACES)
        while self.kept["friend"] == self.kept["hero"]:
            self.kept["friend"] = self.pick(word_lists.GIRLS)

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.chance.random() * len(options))]

    def tell(self) -> str:
        name = self.pick(PLOT_NAMES)
        plot = PLOTS[name]
        self.kept["lesson"] = LESSONS[name]
        paragraphs = [
            [SHARED["openings"], SHARED["scenes"], SHARED["scenes"]],
            [plot["problem"], SHARED["feels"]],
            [SHARED["meetings"], SHARED["talks"], plot["attempt"]],
            [plot["solution"], SHARED["endings"], SHARED["morals"]],
        ]
        if self.chance.random() < 0.4:
            paragraphs[2].append(SHARED["talks"])
        between = "\n\n" if self.chance.random() < 0.5 else "\n"
        said: set[str] = set()
        return between.join(
            " ".join(filter(None, (self.say(beat, said) for beat in each))) for each in paragraphs
        )

    def say(self, beat: Sequence[str], said: set[str]) -> str:
        """One way to say a beat, its slots filled, each sentence with its capital; none is said twice in a story."""
        way = self.pick(beat)
        while way in said and way:
            way = self.pick(beat)
        said.add(way)
        filled = SLOT.sub(lambda slot: self.fill(slot[1]), way)
        return SENTENCE.sub(lambda start: start[1] + start[2] + start[3].upper(), filled)

    def fill(self, slot: str) -> str:
        article = ""
        if slot[:2] in ("a_", "A_"):
            article, slot = slot[0], slot[2:]
        if slot in FRESH:
            word = self.pick(FRESH[slot])
        elif slot in self.kept:
            word = self.kept[slot]
        else:  # {He}, {His}: the pronoun with a capital
            word = self.kept[slot.lower()].capitalize()
        return f"{article}{'n' if word[0] in 'aeiou' else ''} {word}" if article else word
