"""The optimizers: Muon for the matrices of the layers, AdamW for the embedding and the scalars.

Input: a Transformer and an OptimConfig. Output: one object with step() and the state that a checkpoint stores.
Note: matrices of the same shape are moved into one stacked tensor, so that a step takes few matrix products; with several
ranks each processes its share of every stack. Gradients must be added in place, never replaced.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from smalltale.errors import RecipeError
from smalltale.model.transformer import Transformer
from smalltale.training.distributed import Distributed

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
    """Peak learning rates, which the schedule multiplies, and the optimizers' other settings."""

    matrix_rate: float = 0.02
    """Muon's, for the layers' matrices."""
    embedding_rate: float = 0.01
    """AdamW's, for the tied embedding."""
    scalar_rate: float = 0.01
    momentum: float = 0.92
    beta1: float = 0.8
    beta2: float = 0.95
    weight_decay: float = 0.2
    """Of matrix elements that the update already moves towards zero (cautious, arXiv 2411.16085)."""

    def __post_init__(self) -> None:
        for name in ("matrix_rate", "embedding_rate", "scalar_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"training.optim.{name} = {getattr(self, name)}; it must be above 0")


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """matrices: (n, R, C) -> the nearest matrices with singular values near 1, computed in `dtype`."""
    X = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) * 1.02 + 1e-6)
    X = X.to(dtype)
    is_tall = X.shape[-2] > X.shape[-1]
    if is_tall:
        X = X.mT
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.mT
        X = add_to_diagonal(A @ add_to_diagonal(c * A, b), a) @ X  # a X + b A X + c A² X
    out: Tensor = X.mT if is_tall else X
    return out


def add_to_diagonal(matrices: Tensor, amount: float) -> Tensor:
    """matrices: (n, R, R) -> matrices + amount · identity, in place; adding full matrices takes one more memory pass."""
    matrices.diagonal(dim1=-2, dim2=-1).add_(amount)
    return matrices


@dataclass(frozen=True)
class StackedParameter:
    """One parameter of a stack: a (parts·R, C) parameter counts as `parts` matrices."""

    name: str
    parameter: nn.Parameter
    parts: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.parts, self.parameter.shape[0] // self.parts, self.parameter.shape[1])


class MatrixStack:
    """All matrices of one shape as one tensor (n, R, C), and their gradients and momenta likewise.

    The parameters become views of it.
    """

    @torch.no_grad()
    def __init__(self, members: list[StackedParameter]) -> None:
        self.members = members
        self.weights = torch.cat([member.parameter.view(member.shape) for member in members])
        self.gradients, self.momenta = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        views = zip(members, self.split(self.weights), self.split(self.gradients), strict=True)
        for member, weight, gradient in views:
            member.parameter.data, member.parameter.grad = weight, gradient
        self.gain = max(1.0, self.weights.shape[1] / self.weights.shape[2]) ** 0.5

    def split(self, stack: Tensor) -> list[Tensor]:
        """The members' shares of a stack, as views with the parameters' shapes."""
        parts = torch.split(stack, [member.parts for member in self.members])
        return [part.view(member.parameter.shape) for part, member in zip(parts, self.members, strict=True)]


class Muon:
    """Orthogonalised momentum (Jordan et al., 2024) with cautious weight decay."""

    def __init__(
        self,
        members: list[StackedParameter],
        config: OptimConfig,
        distributed: Distributed,
        dtype: torch.dtype,
        *,
        compiled: bool,
    ) -> None:
        self.apply_update = torch.compile(apply_muon_update, dynamic=False) if compiled else apply_muon_update
        members_by_shape: dict[tuple[int, int], list[StackedParameter]] = defaultdict(list)
        for member in members:
            members_by_shape[member.shape[1:]].append(member)
        self.stacks = [MatrixStack(same_shape) for same_shape in members_by_shape.values()]
        self.config, self.distributed = config, distributed
        self.orthogonalise = partial(orthogonalise, dtype=dtype)
        self.rate = torch.tensor(config.matrix_rate, device=members[0].parameter.device)

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights; overwrites the gradients."""
        config = self.config
        for stack in self.stacks:
            stack.momenta.lerp_(stack.gradients, 1 - config.momentum)
            nesterov = stack.gradients.lerp_(stack.momenta, config.momentum)
            update = self.distributed.shard_map(self.orthogonalise, nesterov)
            self.apply_update(stack.weights, update, self.rate, config.weight_decay, stack.gain)


def apply_muon_update(weights: Tensor, update: Tensor, rate: Tensor, decay: float, gain: float) -> None:
    """weights ← weights − rate · (gain · update + decay · weights where both have the same sign), in place."""
    decayed = torch.where(update * weights > 0, weights * decay, 0.0)
    weights.sub_(decayed.add_(update, alpha=gain).mul_(rate))


class Optimizers:
    """Both optimizers as one; learning rates follow `set_multiplier` and are on the device, where a CUDA graph reads them."""

    def __init__(
        self,
        model: Transformer,
        config: OptimConfig,
        distributed: Distributed | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        compiled: bool = False,
    ) -> None:
        """dtype: of the device's matrix products."""
        matrices: list[StackedParameter] = []
        scalars: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.startswith("blocks."):
                matrices.append(StackedParameter(name, parameter, 3 if name.endswith("qkv.weight") else 1))
            elif name != "embedding.weight":
                scalars.append(parameter)
        self.config = config
        embedding = model.embedding.weight
        groups = [([embedding], config.embedding_rate), (scalars, config.scalar_rate)]
        self.muon = Muon(matrices, config, distributed or Distributed(), dtype, compiled=compiled)
        self.adam = torch.optim.AdamW(
            [
                {"params": parameters, "lr": embedding.new_tensor(rate, requires_grad=False)}
                for parameters, rate in groups
                if parameters
            ],
            betas=(config.beta1, config.beta2),
            eps=1e-10,
            weight_decay=0.0,
            fused=embedding.device.type in {"cpu", "cuda"},
            capturable=embedding.device.type == "cuda",
        )
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        # AdamW's state is allocated here, so that a step makes no lasting allocation.
        for group in self.adam.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
                step_device = parameter.device if parameter.device.type == "cuda" else "cpu"
                self.adam.state[parameter] = {
                    "step": torch.zeros((), device=step_device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def reset(self) -> None:
        """Return to the state before the first step: gradients and momenta are zero."""
        self.zero_grad()
        for stack in self.muon.stacks:
            stack.momenta.zero_()
        for state in self.adam.state.values():
            torch._foreach_zero_(list(state.values()))

    def set_multiplier(self, multiplier: float) -> None:
        """Set every learning rate to its peak times `multiplier`."""
        self.muon.rate.fill_(self.config.matrix_rate * multiplier)
        peak_rates = (self.config.embedding_rate, self.config.scalar_rate)
        for group, rate in zip(self.adam.param_groups, peak_rates, strict=False):
            group["lr"].fill_(rate * multiplier)

    def step(self) -> None:
        """Update the weights and set the gradients to zero."""
        self.muon.step()
        self.adam.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Set the gradients to zero in place, where a CUDA graph and the stacks' views find them."""
        adam = [parameter.grad for group in self.adam.param_groups for parameter in group["params"]]
        torch._foreach_zero_([stack.gradients for stack in self.muon.stacks] + adam)

    def state_tensors(self) -> dict[str, Tensor]:
        """Every state tensor by `parameter/state`, for a checkpoint; Muon's are views."""
        tensors = {
            f"{member.name}/momentum": momentum
            for stack in self.muon.stacks
            for member, momentum in zip(stack.members, stack.split(stack.momenta), strict=True)
        }
        for parameter, state in self.adam.state.items():
            tensors |= {f"{self.names[parameter]}/{key}": tensor for key, tensor in state.items()}
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned. Raises KeyError if a tensor is missing."""
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
