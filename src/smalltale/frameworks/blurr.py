"""blurr: fastai's Learner around a Hugging Face model that computes its own loss; imports what `learn.save` wrote.

Its last release (1.0.5, 2022) imports parts of fastcore that moved in 2025, so fastai and fastcore are pinned to the last
versions that have them. Its text blocks encode again for every batch and call removed pandas functions, so the export has
encoded rows, and blurr's wrapper, callback and loss train on them.
"""

from __future__ import annotations

from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export


def export(request: ExportRequest) -> None:
    """Write the shared streams and this framework's scripts."""
    write_llama_export(FRAMEWORK, request, ("train.py", "fastai_rows.py", "run.toml"))


FRAMEWORK = Framework(
    name="blurr",
    title="blurr",
    export=export,
    read=make_llama_reader("blurr", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="ohmeow-blurr",
    needs_trust=True,
)
