"""What recipes around a Hugging Face Llama share: the memory-mapped streams, config.json, and the way back.

In: an Export; a checkpoint with Llama weights by their Hugging Face names. Out: files; a Native.
Beware: the trainers around it put prefixes before the names; llama.py finds them by the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from smalltale.files import write_json
from smalltale.frameworks.exporting import fill, write_streams
from smalltale.frameworks.framework import Export, Framework, Native
from smalltale.frameworks.llama import llama_config, native_llama
from smalltale.frameworks.reading import hugging_face_config, load_weights


def write_llama_export(framework: Framework, to: Export, files: Sequence[str]) -> None:
    """The streams, the model's config.json, stories.py and the framework's own files."""
    write_streams(to, to.out)
    write_json(to.out / "config.json", llama_config(to.plan, to.tokens))
    for name in ("stories.py", *files):
        fill(framework, name, to.out, to.plan)


def llama_reader(name: str, inside: tuple[str, ...] = ()) -> Callable[[Path, bool], Native]:
    """A `read` for the framework `name`, whose pickles keep the weights under the keys `inside`."""

    def read(checkpoint: Path, trust: bool) -> Native:
        return native_llama(load_weights(checkpoint, trust, name, inside), hugging_face_config(checkpoint))

    return read
