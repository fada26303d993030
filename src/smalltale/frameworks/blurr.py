"""blurr: exports a script that trains a Hugging Face model in fastai's Learner; imports the file of `learn.save`.

Its last release (1.0.5, 2022) imports parts of fastcore that moved in 2025, so fastai and fastcore are pinned to the last
versions that have them. Its text blocks encode again for every batch and call removed pandas functions, so the export has
encoded rows, and blurr's wrapper, callback and loss train on them.
"""

from __future__ import annotations

from smalltale.frameworks.framework import Framework
from smalltale.frameworks.huggingface import make_llama_exporter, make_llama_reader

FRAMEWORK = Framework(
    name="blurr",
    title="blurr",
    export=make_llama_exporter("blurr", "train.py", "fastai_rows.py", "run.toml"),
    read=make_llama_reader("blurr", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="ohmeow-blurr",
    needs_trust=True,
)
