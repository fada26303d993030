"""What this machine has and what it can train: measured matrix speed, extras, what to install next.

In: nothing. Out: a Report of plain data.
Beware: the hour's figures are computed from a half-second matrix product and a share of its rate, not from a run.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from smalltale import __version__
from smalltale.rules import Rules
from smalltale.training.device import Device, choose_device

EXTRAS = {
    "judge": (("inspect_ai", "openai", "xllamacpp"), "LLM judges, local and remote"),
    "referee": (("gguf", "accelerate"), "training the offline referee, writing GGUF"),
    "web": (
        ("fastapi", "uvicorn", "sqlalchemy", "alembic", "authlib"),
        "running a hackathon's server",
    ),
    "track": (("tensorboard", "trackio", "wandb"), "outside experiment trackers"),
    "tune": (("optuna",), "searching recipe values"),
    "mlx": (("mlx",), "training with MLX on Apple Silicon"),
    "dev": (("pytest", "ruff", "mypy", "hypothesis"), "working on smalltale itself"),
}
TRAINING_SHARE = {"cpu": 0.25, "cuda": 0.35, "mps": 0.25}
"""Share of the matrix rate that a whole training step reaches, a cautious guess per kind of device."""
PROBE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class ExtraState:
    """An optional part of smalltale."""

    name: str
    missing: tuple[str, ...]
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Hour:
    """What an hour trains in a weight class."""

    weight_class: str
    parameters: int
    tokens_per_second: float
    tokens_per_hour: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything `smalltale doctor` tells."""

    machine: dict[str, str]
    extras: tuple[ExtraState, ...]
    hour: tuple[Hour, ...]
    next_steps: tuple[str, ...]


def inspect_machine() -> Report:
    """Look at this machine. Takes about a second after torch's import."""
    device = choose_device()
    rate = matrix_rate(device)
    extras = tuple(
        ExtraState(
            name=name, missing=tuple(each for each in modules if find_spec(each) is None), purpose=purpose
        )
        for name, (modules, purpose) in EXTRAS.items()
    )
    hour = tuple(
        Hour(
            weight_class=each.name,
            parameters=each.max_parameters,
            tokens_per_second=(speed := rate * TRAINING_SHARE[device.kind] / (6 * each.max_parameters)),
            tokens_per_hour=3600 * speed,
        )
        for each in Rules().weight_classes
    )
    return Report(
        machine={**describe_machine(device), "matrix rate": f"{rate / 1e12:.2f} TFLOP/s measured"},
        extras=extras,
        hour=hour,
        next_steps=next_steps(device, extras),
    )


def describe_machine(device: Device) -> dict[str, str]:
    """What can be told of this machine without measuring."""
    return {
        "smalltale": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{device.kind}: {device.name}",
        "number type": str(device.dtype).removeprefix("torch."),
        "compiles": "yes" if device.compiles else "no",
        "memory": f"{device.memory_bytes / 2**30:.0f} GiB",
        "threads": str(torch.get_num_threads()),
    }


def matrix_rate(device: Device) -> float:
    """Floating-point operations a second of a matrix product of training's size, in the training type."""
    n = 1024 if device.kind == "cpu" else 4096
    left = torch.randn(n, n, device=device.torch_device, dtype=device.dtype)
    right = torch.randn(n, n, device=device.torch_device, dtype=device.dtype)
    left @ right
    device.synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < PROBE_SECONDS:
        for _ in range(4):
            left @ right
        device.synchronize()
        count += 4
    return 2 * n**3 * count / (time.perf_counter() - began)


def next_steps(device: Device, extras: tuple[ExtraState, ...]) -> tuple[str, ...]:
    """What to do next on this machine."""
    steps = []
    for extra in extras:
        if extra.missing and extra.name in {"judge", "web"}:
            steps.append(f"pip install 'smalltale[{extra.name}]' brings {extra.purpose}")
    if device.kind == "cpu" and not device.compiles:
        steps.append("install a C++ compiler (g++): torch.compile makes training on a CPU faster")
    if device.kind == "cpu":
        steps.append("smalltale demo --minutes 3 shows the whole hackathon on this processor")
    else:
        steps.append("smalltale train small --minutes 60 trains an entry of the small class here")
    return tuple(steps)
