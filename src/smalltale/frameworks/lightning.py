"""PyTorch Lightning: a LightningModule, a DataModule and the YAML of its command line; its .ckpt comes back."""

from __future__ import annotations

from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export


def export(to: Export) -> None:
    """The shared streams and scripts of its own."""
    write_llama_export(FRAMEWORK, to, ("train.py", "training.yaml"))


FRAMEWORK = Framework(
    name="lightning",
    title="PyTorch Lightning",
    export=export,
    read=llama_reader("lightning", ("state_dict",)),
    train=("python train.py fit --config training.yaml",),
    checkpoint="out/last.ckpt",
    package="lightning",
    needs_trust=True,
    cheap=True,
)
