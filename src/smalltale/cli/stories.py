"""Read the stories that an argument names: a text file or a corpus folder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal


def read_stories_from(path: Path, split: Literal["train", "val"] = "train") -> Iterator[str]:
    """The stories of a text file, or of a split of a corpus folder, which is streamed.

    Raises FileProblem at the call, not at the first story, if `path` is neither.
    """
    from smalltale.corpus.corpus_folder import read_corpus
    from smalltale.files import read_stories

    if not path.is_dir():
        return iter(read_stories(path))
    stories = (document.text for document in read_corpus(path, split))
    return chain(list(islice(stories, 1)), stories)
