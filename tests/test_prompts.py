from __future__ import annotations

from pathlib import Path

import pytest

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.prompts import find_leaked_prompts, make_prompts, read_prompts, write_prompts

STORY = "One day a girl named Mia found a box. She looked inside the box and saw a tiny bird. The bird was cold. Mia took it home and gave it some water. It sang for her."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'prompt,completion\n"Once, a cat ",x\n"Once, a cat ",y\nOne day,z\n'),
        ("a.yaml", '- "Once, a cat "\n- One day\n'),
        ("a.jsonl", '{"prompt": "Once, a cat "}\n"One day"\n'),
        ("a.txt", "Once, a cat \n\nOne day\n"),
    ],
)
def test_every_file_type_gives_exactly_the_same_prompts(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_prompts(path) == ["Once, a cat ", "One day"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text\nx\n", "no column prompt"),
        ("a.csv", "prompt\n", "has no prompts"),
        ("a.yaml", "a: b\n", "not a list"),
        ("a.yaml", "- [\n", "not YAML"),
        ("a.jsonl", '{"text": "x"}\n', "prompt 1 is not text"),
        ("a.md", "x\n", "use .csv"),
    ],
)
def test_a_file_without_prompts_is_reported_with_the_fix(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileProblem, match=message):
        read_prompts(path)


def test_prompts_are_cut_at_a_sentence_and_inside_a_sentence(tmp_path: Path) -> None:
    stories = [STORY.replace("Mia", name) for name in ("Mia", "Ann", "Zoe", "Lea")]
    prompts = make_prompts(stories, 4, seed=3)
    assert prompts == make_prompts(stories, 4, seed=3)
    assert all(any(story.startswith(prompt) for story in stories) for prompt in prompts)
    assert {prompt[-1] in ".!?" for prompt in prompts} == {True, False}
    write_prompts(tmp_path / "p.jsonl", prompts)
    assert read_prompts(tmp_path / "p.jsonl") == prompts


def test_too_few_stories_are_reported() -> None:
    with pytest.raises(SmalltaleError, match="only 0 of 1 stories"):
        make_prompts(["Too short."], 1, seed=0)


def test_the_papers_prompts_are_read(shared_data: Path) -> None:
    assert len(read_prompts(shared_data / "paper_prompts.yaml")) == 44


def test_a_leaked_prompt_is_found_with_the_length_of_the_shared_run() -> None:
    stories = ["Something else.", STORY]
    leaks = find_leaked_prompts([STORY[:80], "A bear sat down and sang.", "the BIRD, was cold"], stories)
    assert [(leak.prompt, leak.story, leak.words) for leak in leaks] == [(0, 1, 18), (2, 1, 4)]
    assert leaks[1].span == "the bird was cold"
    changed = " ".join(f"{word} x" if index % 12 == 11 else word for index, word in enumerate(STORY.split()))
    assert find_leaked_prompts([changed], stories) == []
