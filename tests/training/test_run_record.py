"""A run's record is published with the model: it has names and hashes of files, but no folders."""

from __future__ import annotations

import pytest

from smalltale.training.run_record import hash_by_file_name, strip_folder, strip_folders


@pytest.mark.parametrize(
    ("setting", "stripped"),
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
def test_a_path_is_reduced_to_its_last_part(setting: object, stripped: object) -> None:
    assert strip_folder(setting) == stripped


def test_two_files_of_the_same_name_keep_their_hashes() -> None:
    hash_by_path = {"/a/train.txt": "1", "/b/train.txt": "2"}
    assert hash_by_file_name(hash_by_path) == {"train.txt": "1", "train.txt (2)": "2"}


def test_only_settings_that_may_be_paths_are_changed() -> None:
    recipe = {
        "name": "mine",
        "corpus": {"sources": ["/home/ada/x.txt"], "mark": "</s>"},
        "judging": {"model": "a/b"},
    }
    stripped = strip_folders({"recipe": recipe, "sources": {"/home/ada/x.txt": "1"}, "seconds": 1.0})
    assert stripped == {
        "recipe": {
            "name": "mine",
            "corpus": {"sources": ["x.txt"], "mark": "</s>"},
            "judging": {"model": "a/b"},
        },
        "sources": {"x.txt": "1"},
        "seconds": 1.0,
    }
