"""The value that flows through the steps of a build: the documents of one piece of a source.

A Step takes a Batch and returns one: a dropped document has a reason, a changed one its new text and fixes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from smalltale.corpus.document import SourceDocument
from smalltale.corpus.hashing import WordHashes, hash_words


@dataclass(frozen=True)
class Batch:
    """All documents of a piece, dropped ones included."""

    documents: Sequence[SourceDocument]

    @cached_property
    def kept(self) -> list[SourceDocument]:
        return [document for document in self.documents if document.reason is None]

    @property
    def dropped(self) -> list[SourceDocument]:
        return [document for document in self.documents if document.reason is not None]

    @cached_property
    def word_hashes(self) -> WordHashes:
        """The words of the kept documents; hashed once for the steps that need them."""
        return hash_words([document.text for document in self.kept])

    def map_kept(self, change: Callable[[SourceDocument], SourceDocument]) -> Batch:
        """Apply `change` to each document that is not dropped yet."""
        return Batch([change(document) if not document.reason else document for document in self.documents])


class Step(Protocol):
    """A step of the build; it is pickled for the worker processes, so it holds paths rather than large data."""

    def __call__(self, batch: Batch) -> Batch: ...
