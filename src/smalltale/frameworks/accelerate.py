"""Accelerate: a plain training loop and its launch configuration; a model folder comes back."""

from __future__ import annotations

from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export


def export(to: Export) -> None:
    """The shared streams and scripts of its own."""
    write_llama_export(FRAMEWORK, to, ("train.py", "run.toml", "accelerate.yaml"))


FRAMEWORK = Framework(
    name="accelerate",
    title="Accelerate",
    export=export,
    read=llama_reader("accelerate"),
    train=("accelerate launch --config_file accelerate.yaml train.py",),
    checkpoint="model",
    package="accelerate",
    cheap=True,
)
