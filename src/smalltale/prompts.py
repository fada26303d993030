"""Prompt files: the beginnings of stories that a model completes.

In: CSV (column prompt), YAML list, JSONL or plain text. Out: the prompts in their order, each once.
Beware: a prompt is kept to the letter, a space at its end included; only exact repetitions fall together.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import atomic_file, read_jsonl, read_text

MIN_PROMPT_WORDS = 8
LEAK_WORDS = 13
"""Words in a row that a prompt shares with a training story from which it counts as leaked; GPT-3 (arXiv 2005.14165) used 13."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A prompt that stands in a training text."""

    prompt: int
    """Index of the prompt."""
    story: int
    """Index of the first story that holds it."""
    words: int
    """Words in a row they share, from the first shared run on."""
    span: str


def read_prompts(path: Path) -> list[str]:
    """The distinct prompts of a file. Raises FileProblem for one that holds none or is of another form."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        found = read_csv_prompts(path)
    elif suffix in {".yaml", ".yml"}:
        found = read_yaml_prompts(path)
    elif suffix == ".jsonl":
        found = [each.get("prompt") if isinstance(each, dict) else each for each in read_jsonl(path)]
    elif suffix == ".txt":
        found = [line for line in read_text(path).splitlines() if line.strip()]
    else:
        raise FileProblem(f"{path}: prompts are read from .csv, .yaml, .jsonl or .txt; rename or convert it")
    for number, prompt in enumerate(found, 1):
        if not isinstance(prompt, str) or not prompt.strip():
            raise FileProblem(
                f"{path}: prompt {number} is not text ({prompt!r}); give every prompt some words"
            )
    if not found:
        raise FileProblem(f"{path} holds no prompt; give at least one")
    return list(dict.fromkeys(found))


def read_csv_prompts(path: Path) -> list[Any]:
    """The column `prompt`."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if "prompt" not in (reader.fieldnames or []):
        raise FileProblem(f"{path} has no column prompt, only {reader.fieldnames}; name the column prompt")
    return [row["prompt"] for row in reader]


def read_yaml_prompts(path: Path) -> list[Any]:
    """A list of texts."""
    try:
        found = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FileProblem(f"{path} is not YAML ({error}); mend that line") from error
    if not isinstance(found, list):
        raise FileProblem(
            f"{path} holds a {type(found).__name__}, not a list of prompts; begin each with '- '"
        )
    return found


def make_prompts(stories: Sequence[str], count: int, seed: int) -> list[str]:
    """Beginnings of `count` different stories, cut between two words after a third to two thirds of their length.

    Half of them end with a sentence, half in the middle of one, as the TinyStories paper has both.
    Raises SmalltaleError where fewer stories are long enough.
    """
    chosen = random.Random(seed)
    order = chosen.sample(range(len(stories)), len(stories))
    prompts: dict[str, None] = {}
    for index in order:
        if len(prompts) == count:
            break
        prompt = cut_beginning(stories[index], at_sentence=len(prompts) % 2 == 0, chosen=chosen)
        if prompt is not None:
            prompts[prompt] = None
    if len(prompts) < count:
        raise SmalltaleError(
            f"only {len(prompts)} of {len(stories)} stories are long enough for a prompt, {count} are wanted; give more"
        )
    return list(prompts)


def cut_beginning(story: str, *, at_sentence: bool, chosen: random.Random) -> str | None:
    """The beginning of a story, or None where it is too short."""
    words = [match.end() for match in re.finditer(r"\S+", story)]
    if len(words) < 3 * MIN_PROMPT_WORDS:
        return None
    least, most = len(words) // 3, 2 * len(words) // 3
    if at_sentence:
        ends = [end for end in words[least:most] if story[:end].rstrip("\"'”’")[-1:] in ".!?"]
        return story[: ends[0]] if ends else None
    inside = [end for end in words[least:most] if story[end - 1].isalpha()]
    return story[: chosen.choice(inside)] if inside else None


def write_prompts(path: Path, prompts: Sequence[str]) -> None:
    """Write prompts as JSONL, one `{"prompt": …}` a line."""
    with atomic_file(path) as temporary:
        lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts)
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def find_leaked_prompts(prompts: Sequence[str], stories: Iterable[str]) -> list[Leak]:
    """The prompts of which a run of 13 words, or all words of a shorter one, stands in a story; the first story each."""
    wanted: dict[tuple[str, ...], list[int]] = {}
    lengths: set[int] = set()
    said = [split_words(prompt) for prompt in prompts]
    for index, each in enumerate(said):
        length = min(LEAK_WORDS, len(each))
        lengths.add(length)
        for start in range(len(each) - length + 1):
            wanted.setdefault(tuple(each[start : start + length]), []).append(index)
    found: dict[int, Leak] = {}
    for number, story in enumerate(stories):
        told = split_words(story)
        for length in lengths - {0}:
            for start in range(len(told) - length + 1):
                run = tuple(told[start : start + length])
                for index in wanted.get(run, ()):
                    if index not in found:
                        found[index] = extend_leak(index, number, said[index], told, run, start)
    return [found[index] for index in sorted(found)]


def extend_leak(
    prompt: int, story: int, said: list[str], told: list[str], run: tuple[str, ...], start: int
) -> Leak:
    """How far a shared run goes on."""
    place = next(at for at in range(len(said)) if tuple(said[at : at + len(run)]) == run)
    length = len(run)
    while said[place + length : place + length + 1] == told[start + length : start + length + 1] != []:
        length += 1
    return Leak(prompt=prompt, story=story, words=length, span=" ".join(said[place : place + length]))


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())
