"""Describe this machine and what it can train: measured matrix speed, installed extras, what to install next.

Input: none. Output: a DoctorReport of plain data.
Pitfall: the training speeds are estimates: a share of the rate of matrix products timed for half a second, not a run.
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
    "judge": (("inspect_ai", "openai", "xllamacpp", "gguf", "accelerate"), "LLM judges, GGUF export"),
    "web": (("fastapi", "uvicorn", "sqlalchemy", "alembic", "authlib"), "a hackathon's server"),
    "track": (("tensorboard", "trackio", "wandb"), "experiment trackers"),
    "tune": (("optuna",), "hyperparameter search"),
    "mlx": (("mlx",), "training with MLX on Apple Silicon"),
    "dev": (("pytest", "ruff", "mypy", "hypothesis"), "development of smalltale"),
}
TRAINING_SHARE = {"cpu": 0.25, "cuda": 0.35, "mps": 0.25}
"""Share of the matrix rate that a training step reaches; a conservative guess per kind of device."""
PROBE_SECONDS = 0.5


@dataclass(frozen=True)
class ExtraState:
    """An extra of smalltale and its packages that are not installed."""

    name: str
    missing: tuple[str, ...]
    purpose: str


@dataclass(frozen=True)
class SpeedEstimate:
    """Estimated training speed of a model that fills a weight class."""

    weight_class: str
    parameters: int
    tokens_per_second: float
    tokens_per_hour: float


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Everything that `smalltale doctor` prints."""

    machine: dict[str, str]
    extras: tuple[ExtraState, ...]
    hour: tuple[SpeedEstimate, ...]
    next_steps: tuple[str, ...]


def inspect_machine() -> DoctorReport:
    """Measure and describe this machine. Takes about a second after the import of torch."""
    device = choose_device()
    rate = matrix_rate(device)
    extras = tuple(
        ExtraState(name, tuple(module for module in modules if find_spec(module) is None), purpose)
        for name, (modules, purpose) in EXTRAS.items()
    )
    hour = []
    for weight_class in Rules().weight_classes:
        parameters = weight_class.max_parameters
        # A training step takes about 6 floating-point operations per parameter and token.
        speed = rate * TRAINING_SHARE[device.kind] / (6 * parameters)
        hour.append(SpeedEstimate(weight_class.name, parameters, speed, 3600 * speed))
    return DoctorReport(
        machine={**describe_machine(device), "matrix rate": f"{rate / 1e12:.2f} TFLOP/s measured"},
        extras=extras,
        hour=tuple(hour),
        next_steps=suggest_steps(device, extras),
    )


def describe_machine(device: Device) -> dict[str, str]:
    """Facts about this machine that need no measurement."""
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
    """Floating-point operations per second of a matrix product in the data type of training."""
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


def suggest_steps(device: Device, extras: tuple[ExtraState, ...]) -> tuple[str, ...]:
    """Suggestions for the next commands on this machine."""
    steps = []
    for extra in extras:
        if extra.missing and extra.name in {"judge", "web"}:
            steps.append(f"pip install 'smalltale[{extra.name}]' installs {extra.purpose}")
    if device.kind == "cpu" and not device.compiles:
        steps.append("install a C++ compiler (g++): torch.compile makes training on a CPU faster")
    if device.kind == "cpu":
        steps.append("smalltale demo --minutes 3 runs the whole hackathon on this processor")
    else:
        steps.append("smalltale train small --minutes 60 trains an entry for the small class")
    return tuple(steps)
