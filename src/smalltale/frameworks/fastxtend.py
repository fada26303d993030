"""fastxtend: exports a script with its fused optimizers and schedules for fastai; imports the file of `learn.save`.

Its last release (0.1.7, November 2023) imports parts of fastcore that moved in 2025, so fastai and fastcore are pinned to the
last versions that have them. Its vision and audio modules need torchvision and are not imported.
"""

from __future__ import annotations

from smalltale.frameworks.framework import Framework
from smalltale.frameworks.huggingface import make_llama_exporter, make_llama_reader

FRAMEWORK = Framework(
    name="fastxtend",
    title="fastxtend",
    export=make_llama_exporter("fastxtend", "train.py", "fastai_rows.py", "run.toml"),
    read=make_llama_reader("fastxtend", ("model",)),
    train=("python train.py",),
    checkpoint="models/stories.pth",
    package="fastxtend",
    needs_trust=True,
)
