"""One piece of text on its way into a corpus.

In: what a source read. Out: the record that cleaning, deduplication and tokenising pass along.
Beware: `id` says where the text was read, not what it says; two copies of one story have two ids.
"""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """A story or an article."""

    text: str
    source: str
    """The short name or path given in the recipe, for example `fable`."""
    id: str
    """Where in the source it stood; the same on every run."""
