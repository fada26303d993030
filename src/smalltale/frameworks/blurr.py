"""blurr: fastai's Learner around a Hugging Face model, which gives the loss itself; what `learn.save` wrote comes back.

Beware: its last release (1.0.5, 2022) imports parts of fastcore that moved away in 2025: fastai and fastcore are kept at the last
versions that have them. Its text blocks encode again at every batch and call pandas functions that are gone; the rows
come encoded from here, and blurr's wrapper, callback and loss train on them.
"""

from __future__ import annotations

from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export


def export(to: Export) -> None:
    """The shared streams and scripts of its own."""
    write_llama_export(FRAMEWORK, to, ("train.py", "fastai_rows.py", "run.toml"))


FRAMEWORK = Framework(
    name="blurr",
    title="blurr",
    export=export,
    read=llama_reader("blurr", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="ohmeow-blurr",
    needs_trust=True,
)
