"""fastxtend: fastai with its own fused optimizers and schedules; imports what `learn.save` wrote.

Its last release (0.1.7, November 2023) imports parts of fastcore that moved in 2025, so fastai and fastcore are pinned to the
last versions that have them. Its vision and audio modules need torchvision and are not imported.
"""

from __future__ import annotations

from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export


def export(request: ExportRequest) -> None:
    """Write the shared streams and this framework's scripts."""
    write_llama_export(FRAMEWORK, request, ("train.py", "fastai_rows.py", "run.toml"))


FRAMEWORK = Framework(
    name="fastxtend",
    title="fastxtend",
    export=export,
    read=make_llama_reader("fastxtend", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="fastxtend",
    needs_trust=True,
)
