"""PyTorch Lightning: a LightningModule, a DataModule and the YAML of its command line; imports its .ckpt."""

from __future__ import annotations

from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export


def export(request: ExportRequest) -> None:
    """Write the shared streams and this framework's scripts."""
    write_llama_export(FRAMEWORK, request, ("train.py", "training.yaml"))


FRAMEWORK = Framework(
    name="lightning",
    title="PyTorch Lightning",
    export=export,
    read=make_llama_reader("lightning", ("state_dict",)),
    train=("python train.py fit --config training.yaml",),
    checkpoint="out/last.ckpt",
    package="lightning",
    needs_trust=True,
    quick_to_prove=True,
)
