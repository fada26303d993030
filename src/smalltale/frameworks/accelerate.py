"""Accelerate: exports a plain training loop and its launch configuration; imports the model folder."""

from __future__ import annotations

from smalltale.frameworks.framework import Framework
from smalltale.frameworks.huggingface import make_llama_exporter, make_llama_reader

FRAMEWORK = Framework(
    name="accelerate",
    title="Accelerate",
    export=make_llama_exporter("accelerate", "train.py", "run.toml", "accelerate.yaml"),
    read=make_llama_reader("accelerate"),
    train=("accelerate launch --config_file accelerate.yaml train.py",),
    checkpoint="model",
    package="accelerate",
    quick_to_prove=True,
)
