"""A run's record leaves the machine with the model: names and hashes, no folders."""

from __future__ import annotations

import pytest

from smalltale.training.run_record import by_name, file_name, without_folders


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("fable", "fable"),
        ("/home/ada/texts/tales.txt", "tales.txt"),
        (r"C:\Users\ada\tales.txt", "tales.txt"),
        ("tinystories-v2=/home/ada/train.txt", "tinystories-v2=train.txt"),
        ("/home/ada/a=b/tales.txt", "tales.txt"),
        ("texts/", "texts"),
        (["fable", "~/tales.txt"], ["fable", "tales.txt"]),
        (None, None),
    ],
)
def test_a_path_is_told_by_its_last_part(given: object, told: object) -> None:
    assert file_name(given) == told


def test_two_files_of_one_name_keep_their_hashes() -> None:
    assert by_name({"/a/train.txt": "1", "/b/train.txt": "2"}) == {"train.txt": "1", "train.txt (2)": "2"}


def test_only_what_may_be_a_path_is_changed() -> None:
    recipe = {
        "name": "mine",
        "corpus": {"sources": ["/home/ada/x.txt"], "mark": "</s>"},
        "judging": {"model": "a/b"},
    }
    told = without_folders({"recipe": recipe, "sources": {"/home/ada/x.txt": "1"}, "seconds": 1.0})
    assert told == {
        "recipe": {
            "name": "mine",
            "corpus": {"sources": ["x.txt"], "mark": "</s>"},
            "judging": {"model": "a/b"},
        },
        "sources": {"x.txt": "1"},
        "seconds": 1.0,
    }
