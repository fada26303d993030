"""Stories that a user names: a text file, or a corpus folder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal


def read_stories_from(place: Path, split: Literal["train", "val"] = "train") -> Iterator[str]:
    """The stories of a text file, or of a corpus folder's split; a folder is read as a stream.

    Raises FileProblem here and now where `place` is neither.
    """
    from smalltale.corpus.build import read_corpus
    from smalltale.files import read_stories

    if not place.is_dir():
        return iter(read_stories(place))
    stories = (document.text for document in read_corpus(place, split))
    return chain(list(islice(stories, 1)), stories)
