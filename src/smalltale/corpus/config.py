"""The `[corpus]` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from smalltale.errors import RecipeError
from smalltale.files import END_OF_STORY


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What goes into a corpus and what stays out."""

    sources: tuple[str, ...] = ("fable",)
    """Short names (fable, tinystories-v2, simplewiki, …), NAME=PATH, files, folders or globs."""
    stories: int = 20_000
    """Number of stories that `fable` generates."""
    seed: int = 1
    """Seed of fable's stories and of the order of the train split."""
    validation: str | None = None
    """A file or short name whose stories become the val split unchanged; training stories that leak them are dropped."""
    validation_share: float = 0.01
    """Share of the stories in the val split, chosen by hash, if `validation` names no file; 0 < share < 1."""
    keep_out: tuple[str, ...] = ()
    """More text files and prompt files whose text must not occur in train."""
    mark: str = END_OF_STORY
    """The separator between stories in a .txt file; a file without it is split before paragraphs that open a story."""
    parts: tuple[str, ...] = ()
    """Parts of tinystories-tar to read: GPT-3.5, GPT-4; empty for both."""
    clean: bool = True
    """Whether the cleaning rules run."""
    minimum_words: int = 30
    """A shorter story is dropped."""
    near_duplicates: float = 0.8
    """Stories that share this much of their 5-word shingles are duplicates; 1 drops exact duplicates only."""
    leak_words: int = 30
    """A story that shares a run of this many words with a held-out text is a leak."""
    vocabulary: str | None = None
    """A text file of stories to learn the children's vocabulary from; default: the stories of the build."""
    vocabulary_share: float = 0.95
    """The share of a wiki sentence's words that a small child must understand, 0 to 1."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often a source is repeated, by name: 2 doubles it, 0.5 halves it, 0 leaves it out."""
    temperature: float = 1.0
    """1 keeps the sources' sizes; a higher value evens them out by repeating the smaller ones."""
    schedule: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The part of the run in which a source occurs, by name, for example {simplewiki = [0, 0.3], fable = [0.2, 1]}."""
    shard_bytes: int = 32_000_000
    """Approximate size of the text in a Parquet shard."""
    processes: int | None = None
    """Number of worker processes; default: all cores, one for small input. The output does not depend on it."""

    def __post_init__(self) -> None:
        def require(name: str, is_valid: bool, advice: str) -> None:
            if not is_valid:
                raise RecipeError(f"corpus.{name} is {getattr(self, name)!r}; {advice}")

        require("sources", bool(self.sources), "name at least one file or short name, for example fable")
        require("validation_share", 0 < self.validation_share < 1, "choose a share above 0 and below 1")
        require("stories", self.stories >= 1, "choose at least 1")
        require("near_duplicates", 0.5 <= self.near_duplicates <= 1, "choose a share from 0.5 to 1")
        require("leak_words", 8 <= self.leak_words <= 256, "choose from 8 to 256 words")
        require("minimum_words", self.minimum_words >= 1, "choose at least 1")
        require("vocabulary_share", 0 <= self.vocabulary_share <= 1, "choose a share from 0 to 1")
        require("temperature", self.temperature >= 1, "choose 1 or more")
        require("weights", all(weight >= 0 for weight in self.weights.values()), "choose 0 or more")
        require("shard_bytes", self.shard_bytes >= 100_000, "choose at least 100000")
        require("processes", self.processes is None or self.processes >= 1, "choose at least 1")
        require("mark", bool(self.mark), "give the text that separates stories")
        check_schedule(self.schedule)

    @property
    def hashed_validation_share(self) -> float:
        """The share of the stories that their hash assigns to val: 0 if a validation file is given."""
        return 0.0 if self.validation else self.validation_share

    @property
    def finds_near_duplicates(self) -> bool:
        return self.near_duplicates < 1

    def output_settings(self) -> dict[str, Any]:
        """Return the settings that change the output: all but `processes`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "processes"}


def check_schedule(schedule: Mapping[str, Sequence[float]]) -> None:
    """Raise RecipeError unless each window of a schedule is two rising shares of the run."""
    for name, window in schedule.items():
        if len(window) != 2 or not 0 <= window[0] < window[1] <= 1:
            raise RecipeError(
                f"corpus.schedule.{name} is {list(window)}; give two shares of the run, for example [0, 0.3]"
            )
