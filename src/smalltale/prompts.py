"""Prompt files: the beginnings of stories that a model completes.

Input: CSV (column prompt), YAML list, JSONL or plain text. Output: the distinct prompts in their order.
Pitfall: a prompt is kept exactly, including trailing white space; only exact repetitions are merged.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_jsonl, read_text, write_jsonl

MIN_PROMPT_WORDS = 8
LEAK_WORDS = 13
"""A prompt that shares this many consecutive words with a training story counts as leaked; GPT-3 (arXiv 2005.14165) used 13."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A prompt that occurs in a training text."""

    prompt: int
    """Index of the prompt."""
    story: int
    """Index of the first story that contains it."""
    words: int
    """Length of the first run of words that they share."""
    span: str


def read_prompts(path: Path) -> list[str]:
    """The distinct prompts of a file. Raises FileProblem for a file without prompts or of an unsupported type."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        prompts = read_csv_prompts(path)
    elif suffix in {".yaml", ".yml"}:
        prompts = read_yaml_prompts(path)
    elif suffix == ".jsonl":
        prompts = [row.get("prompt") if isinstance(row, dict) else row for row in read_jsonl(path)]
    elif suffix == ".txt":
        prompts = [line for line in read_text(path).splitlines() if line.strip()]
    else:
        raise FileProblem(f"{path}: unsupported file type; use .csv, .yaml, .jsonl or .txt")
    for number, prompt in enumerate(prompts, 1):
        if not isinstance(prompt, str) or not prompt.strip():
            raise FileProblem(f"{path}: prompt {number} is not text ({prompt!r}); give every prompt words")
    if not prompts:
        raise FileProblem(f"{path} has no prompts; give at least one")
    return list(dict.fromkeys(prompts))


def read_csv_prompts(path: Path) -> list[Any]:
    """The column `prompt`."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if "prompt" not in (reader.fieldnames or []):
        raise FileProblem(f"{path} has no column prompt, only {reader.fieldnames}; name the column prompt")
    return [row["prompt"] for row in reader]


def read_yaml_prompts(path: Path) -> list[Any]:
    """The entries of a YAML list."""
    try:
        prompts = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FileProblem(f"{path} is not YAML ({error}); correct that line") from error
    if not isinstance(prompts, list):
        kind = type(prompts).__name__
        raise FileProblem(f"{path} has a {kind}, not a list of prompts; begin each prompt with '- '")
    return prompts


def make_prompts(stories: Sequence[str], count: int, seed: int) -> list[str]:
    """Beginnings of `count` different stories, cut between two words after a third to two thirds of their length.

    Half of them end with a sentence, half in the middle of one, like the prompts of the TinyStories paper.
    Raises SmalltaleError if fewer stories are long enough.
    """
    generator = random.Random(seed)
    order = generator.sample(range(len(stories)), len(stories))
    prompts: dict[str, None] = {}
    for index in order:
        if len(prompts) == count:
            break
        prompt = cut_beginning(stories[index], at_sentence=len(prompts) % 2 == 0, generator=generator)
        if prompt is not None:
            prompts[prompt] = None
    if len(prompts) < count:
        raise SmalltaleError(
            f"only {len(prompts)} of {len(stories)} stories are long enough for a prompt, {count} are needed; give more"
        )
    return list(prompts)


def cut_beginning(story: str, *, at_sentence: bool, generator: random.Random) -> str | None:
    """The beginning of a story, or None if the story is too short."""
    word_ends = [match.end() for match in re.finditer(r"\S+", story)]
    if len(word_ends) < 3 * MIN_PROMPT_WORDS:
        return None
    middle_third = word_ends[len(word_ends) // 3 : 2 * len(word_ends) // 3]
    if at_sentence:
        ends = [end for end in middle_third if story[:end].rstrip("\"'”’")[-1:] in ".!?"]
        return story[: ends[0]] if ends else None
    ends = [end for end in middle_third if story[end - 1].isalpha()]
    return story[: generator.choice(ends)] if ends else None


def write_prompts(path: Path, prompts: Sequence[str]) -> None:
    """Write prompts as JSONL, one `{"prompt": …}` per line."""
    write_jsonl(path, ({"prompt": prompt} for prompt in prompts))


def find_leaked_prompts(prompts: Sequence[str], stories: Iterable[str]) -> list[Leak]:
    """The prompts that share LEAK_WORDS consecutive words (all words if shorter) with a story, and the first such story."""
    prompts_by_run: dict[tuple[str, ...], list[int]] = {}
    run_lengths: set[int] = set()
    prompt_words = [lowercase_words(prompt) for prompt in prompts]
    for index, words in enumerate(prompt_words):
        length = min(LEAK_WORDS, len(words))
        run_lengths.add(length)
        for start in range(len(words) - length + 1):
            prompts_by_run.setdefault(tuple(words[start : start + length]), []).append(index)
    leaks: dict[int, Leak] = {}
    for number, story in enumerate(stories):
        words = lowercase_words(story)
        for length in run_lengths - {0}:
            for start in range(len(words) - length + 1):
                run = tuple(words[start : start + length])
                for index in prompts_by_run.get(run, ()):
                    if index not in leaks:
                        leaks[index] = measure_leak(index, number, prompt_words[index], words[start:], length)
    return [leaks[index] for index in sorted(leaks)]


def measure_leak(
    prompt: int, story: int, prompt_words: list[str], story_words: list[str], length: int
) -> Leak:
    """The full length of a shared run, of which the first `length` words of `story_words` are the beginning."""
    run = story_words[:length]
    start = next(i for i in range(len(prompt_words)) if prompt_words[i : i + length] == run)
    pairs = zip(prompt_words[start:], story_words, strict=False)
    span = [word for word, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return Leak(prompt=prompt, story=story, words=len(span), span=" ".join(span))


def lowercase_words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())
