"""Accelerate: a plain training loop and its launch configuration; imports the model folder."""

from __future__ import annotations

from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export


def export(request: ExportRequest) -> None:
    """Write the shared streams and this framework's scripts."""
    write_llama_export(FRAMEWORK, request, ("train.py", "run.toml", "accelerate.yaml"))


FRAMEWORK = Framework(
    name="accelerate",
    title="Accelerate",
    export=export,
    read=make_llama_reader("accelerate"),
    train=("accelerate launch --config_file accelerate.yaml train.py",),
    checkpoint="model",
    package="accelerate",
    quick_to_prove=True,
)
