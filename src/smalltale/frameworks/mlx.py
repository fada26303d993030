"""MLX, for Apple Silicon: a training script on the same streams; its safetensors come back under Hugging Face's names."""

from __future__ import annotations

from smalltale.files import write_json
from smalltale.frameworks.exporting import fill, write_streams
from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader
from smalltale.frameworks.llama import llama_config


def export(to: Export) -> None:
    """The streams, the model's config.json and a script that needs MLX and numpy alone."""
    write_streams(to, to.out)
    write_json(to.out / "config.json", llama_config(to.plan, to.tokens))
    for name in ("train.py", "run.toml"):
        fill(FRAMEWORK, name, to.out, to.plan)


FRAMEWORK = Framework(
    name="mlx",
    title="MLX",
    export=export,
    read=llama_reader("mlx"),
    train=("python train.py",),
    checkpoint="model",
    package="mlx",
)
