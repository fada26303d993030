"""MLX, for Apple Silicon: exports streams and a training script; imports its safetensors (Hugging Face weight names)."""

from __future__ import annotations

from smalltale.files import write_json
from smalltale.frameworks.exporting import render_template, write_streams
from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader
from smalltale.frameworks.llama import llama_config


def export(request: ExportRequest) -> None:
    """Write the streams, config.json and a script that needs only MLX and numpy."""
    write_streams(request, request.out)
    write_json(request.out / "config.json", llama_config(request.plan, request.tokens))
    for name in ("train.py", "run.toml"):
        render_template(FRAMEWORK, name, request.out, request.plan)


FRAMEWORK = Framework(
    name="mlx",
    title="MLX",
    export=export,
    read=make_llama_reader("mlx"),
    train=("python train.py",),
    checkpoint="model",
    package="mlx",
)
