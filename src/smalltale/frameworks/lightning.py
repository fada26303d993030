"""PyTorch Lightning: exports a LightningModule, a DataModule and the YAML of its command line; imports its .ckpt."""

from __future__ import annotations

from smalltale.frameworks.framework import Framework
from smalltale.frameworks.huggingface import make_llama_exporter, make_llama_reader

FRAMEWORK = Framework(
    name="lightning",
    title="PyTorch Lightning",
    export=make_llama_exporter("lightning", "train.py", "training.yaml"),
    read=make_llama_reader("lightning", ("state_dict",)),
    train=("python train.py fit --config training.yaml",),
    checkpoint="out/last.ckpt",
    package="lightning",
    needs_trust=True,
    quick_to_prove=True,
)
