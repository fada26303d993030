"""Export and import shared by all frameworks that train a Hugging Face Llama: memory-mapped streams and config.json.

Trainers add prefixes to the weight names; llama.py finds the prefix by the embedding's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from smalltale.files import write_json
from smalltale.frameworks.exporting import render_template, write_streams
from smalltale.frameworks.framework import ExportRequest, Framework, ImportedModel, get_framework
from smalltale.frameworks.llama import import_llama, llama_config
from smalltale.frameworks.reading import hugging_face_config, load_weights


def write_llama_export(framework: Framework, request: ExportRequest, files: Sequence[str]) -> None:
    """Write the streams, config.json, stories.py and the framework's own `files`."""
    write_streams(request, request.out)
    write_json(request.out / "config.json", llama_config(request.plan, request.tokens))
    for name in ("stories.py", *files):
        render_template(framework, name, request.out, request.plan)


def make_llama_exporter(name: str, *files: str) -> Callable[[ExportRequest], None]:
    """Make `Framework.export` for framework `name`: the Llama export with the framework's own `files`."""

    def export(request: ExportRequest) -> None:
        write_llama_export(get_framework(name), request, files)

    return export


def make_llama_reader(name: str, inside: tuple[str, ...] = ()) -> Callable[[Path, bool], ImportedModel]:
    """Make `Framework.read` for framework `name`, whose pickles have the weights under the nested keys `inside`."""

    def read(checkpoint: Path, trust: bool) -> ImportedModel:
        return import_llama(load_weights(checkpoint, trust, name, inside), hugging_face_config(checkpoint))

    return read
