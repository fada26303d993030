"""fastai: exports a script with a Learner over DataLoaders of rows; imports the file of `learn.save`."""

from __future__ import annotations

from smalltale.frameworks.framework import Framework
from smalltale.frameworks.huggingface import make_llama_exporter, make_llama_reader

FRAMEWORK = Framework(
    name="fastai",
    title="fastai",
    export=make_llama_exporter("fastai", "train.py", "fastai_rows.py", "run.toml"),
    read=make_llama_reader("fastai", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="fastai",
    needs_trust=True,
    quick_to_prove=True,
)
