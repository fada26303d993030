"""fastai: a Learner over DataLoaders of rows; what `learn.save` wrote comes back."""

from __future__ import annotations

from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export


def export(to: Export) -> None:
    """The shared streams and scripts of its own."""
    write_llama_export(FRAMEWORK, to, ("train.py", "fastai_rows.py", "run.toml"))


FRAMEWORK = Framework(
    name="fastai",
    title="fastai",
    export=export,
    read=llama_reader("fastai", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="fastai",
    needs_trust=True,
    cheap=True,
)
