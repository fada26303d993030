"""fastai: a Learner over DataLoaders of rows; imports what `learn.save` wrote."""

from __future__ import annotations

from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export


def export(request: ExportRequest) -> None:
    """Write the shared streams and this framework's scripts."""
    write_llama_export(FRAMEWORK, request, ("train.py", "fastai_rows.py", "run.toml"))


FRAMEWORK = Framework(
    name="fastai",
    title="fastai",
    export=export,
    read=make_llama_reader("fastai", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="fastai",
    needs_trust=True,
    quick_to_prove=True,
)
