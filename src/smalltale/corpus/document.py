"""The two records of text: a document of a finished corpus, and a document on its way through the build.

Pitfall: `id` says where the text was read, not what it says; two copies of one story have two ids.
"""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """A story or an article of a corpus."""

    text: str
    source: str
    """The short name or path given in the recipe, for example `fable`."""
    id: str
    """Its position in the source; the same on every run."""


class SourceDocument(NamedTuple):
    """A document that was read from a source; every build step takes these and returns them."""

    text: str
    id: str
    reason: str | None = None
    """Why a reader or step dropped it; None as long as it stays."""
    detail: str = ""
    """What the reason refers to, for example the validation story that it leaks."""
    fixes: tuple[str, ...] = ()
    """Cleaning rules that changed the text."""
