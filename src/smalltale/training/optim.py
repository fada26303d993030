"""The optimizers: Muon for the matrices of the layers, AdamW for the embedding and the scalars.

In: a Transformer and an OptimConfig. Out: one object with step(), state_dict() and load_state_dict().
Beware: matrices of one shape are orthogonalised together in one batch, so a step is a handful of products.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalltale.errors import RecipeError
from smalltale.model.transformer import Transformer

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Polynomial coefficients of the Polar Express (arXiv 2505.16932), for five steps in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Learning rates at full strength; the schedule multiplies them."""

    matrix_rate: float = 0.02
    """Muon's, for the layers' matrices."""
    embedding_rate: float = 0.01
    """AdamW's, for the tied embedding."""
    scalar_rate: float = 0.01
    momentum: float = 0.92
    beta1: float = 0.8
    beta2: float = 0.95
    weight_decay: float = 0.2
    """On matrices, where the update already moves towards zero (cautious, arXiv 2411.16085)."""

    def __post_init__(self) -> None:
        for name in ("matrix_rate", "embedding_rate", "scalar_rate"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"training.optim.{name} = {getattr(self, name)} must be above 0")


def orthogonalised(matrices: Tensor) -> Tensor:
    """matrices: (n, R, C) -> the nearest matrices with singular values near 1, in bfloat16."""
    X = matrices.bfloat16()
    tall = X.shape[-2] > X.shape[-1]
    if tall:
        X = X.mT
    X = X / (X.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    out: Tensor = X.mT if tall else X
    return out


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al., 2024). A parameter (R, C) may be `parts` matrices stacked by rows."""

    def __init__(self, parameters: list[nn.Parameter], parts: list[int], config: OptimConfig) -> None:
        super().__init__(parameters, {"lr": config.matrix_rate})
        self.momentum, self.weight_decay, self.parts = config.momentum, config.weight_decay, parts

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter, parts in zip(group["params"], self.parts, strict=True):
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"]
            momentum.lerp_(parameter.grad, 1 - self.momentum)
            ahead = torch.lerp(parameter.grad, momentum, self.momentum)
            rows, columns = parameter.shape[0] // parts, parameter.shape[1]
            by_shape[rows, columns].append((parameter, ahead.view(parts, rows, columns)))
        for (rows, columns), members in by_shape.items():
            updates = orthogonalised(torch.cat([ahead for _, ahead in members]))
            scale = max(1.0, rows / columns) ** 0.5
            start = 0
            for parameter, ahead in members:
                update = updates[start : start + len(ahead)].reshape(parameter.shape).float()
                start += len(ahead)
                if self.weight_decay:
                    agrees = (update * parameter > 0).float()
                    parameter.mul_(1 - group["lr"] * self.weight_decay * agrees)
                parameter.add_(update, alpha=-group["lr"] * scale)


class Optimizers:
    """Both optimizers as one; rates follow `set_multiplier`."""

    def __init__(self, model: Transformer, config: OptimConfig) -> None:
        matrices, parts, scalars = [], [], []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.startswith("blocks."):
                matrices.append(parameter)
                parts.append(3 if name.endswith("qkv.weight") else 1)
            elif name != "embedding.weight":
                scalars.append(parameter)
        adam_groups = [{"params": [model.embedding.weight], "lr": config.embedding_rate}]
        if scalars:
            adam_groups.append({"params": scalars, "lr": config.scalar_rate})
        fused = model.embedding.weight.device.type in {"cpu", "cuda"}
        self.muon = Muon(matrices, parts, config)
        self.adam = torch.optim.AdamW(
            adam_groups, betas=(config.beta1, config.beta2), eps=1e-10, weight_decay=0.0, fused=fused
        )
        self.full_rates = [[group["lr"] for group in each.param_groups] for each in (self.muon, self.adam)]
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}

    def set_multiplier(self, multiplier: float) -> None:
        """Set every learning rate to its full strength times `multiplier`."""
        for optimizer, rates in zip((self.muon, self.adam), self.full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * multiplier

    def step(self) -> None:
        self.muon.step()
        self.adam.step()

    def zero_grad(self) -> None:
        self.muon.zero_grad(set_to_none=True)
        self.adam.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Every state tensor by `parameter/state`, for a checkpoint."""
        return {
            f"{self.names[parameter]}/{key}": value
            for optimizer in (self.muon, self.adam)
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for optimizer in (self.muon, self.adam):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    prefix = f"{self.names[parameter]}/"
                    for key, value in tensors.items():
                        if key.startswith(prefix):
                            where = (
                                "cpu"
                                if key.endswith("/step") and parameter.device.type == "cpu"
                                else parameter.device
                            )
                            optimizer.state[parameter][key.removeprefix(prefix)] = value.to(where)
