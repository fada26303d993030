"""fastxtend: fastai with fused optimizers and schedules of its own; what `learn.save` wrote comes back.

Beware: its last release (0.1.7, November 2023) imports parts of fastcore that moved away in 2025: fastai and fastcore are kept
at the last versions that have them. Its vision and audio parts want torchvision and are left alone.
"""

from __future__ import annotations

from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export


def export(to: Export) -> None:
    """The shared streams and scripts of its own."""
    write_llama_export(FRAMEWORK, to, ("train.py", "fastai_rows.py", "run.toml"))


FRAMEWORK = Framework(
    name="fastxtend",
    title="fastxtend",
    export=export,
    read=llama_reader("fastxtend", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="fastxtend",
    needs_trust=True,
)
