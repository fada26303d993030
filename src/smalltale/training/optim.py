"""The optimizers: Muon for the matrices of the layers, AdamW for the embedding and the scalars.

In: a Transformer and an OptimConfig. Out: one object with step() and the state a checkpoint keeps.
Beware: matrices of one shape are moved into one stacked tensor, so that a step is a handful of products; with several
ranks each takes its share of every stack. Gradients must be added in place, never replaced.
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
from smalltale.training.distributed import Ranks

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
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"training.optim.{name} = {getattr(self, name)}; it must be above 0")


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """matrices: (n, R, C) -> the nearest matrices with singular values near 1, computed in `dtype`."""
    X = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) * 1.02 + 1e-6)
    X = X.to(dtype)
    tall = X.shape[-2] > X.shape[-1]
    if tall:
        X = X.mT
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.mT
        X = add_to_diagonals(A @ add_to_diagonals(c * A, b), a) @ X  # a X + b A X + c A² X
    out: Tensor = X.mT if tall else X
    return out


def add_to_diagonals(matrices: Tensor, amount: float) -> Tensor:
    """matrices: (n, R, R) -> each plus amount times the identity, in place; adding whole matrices costs a pass more."""
    matrices.diagonal(dim1=-2, dim2=-1).add_(amount)
    return matrices


class Stack:
    """All matrices of one shape as one tensor (n, R, C), and their gradients and momenta likewise.

    The parameters become views of it; a parameter (p·R, C) may be p of them, one above the other.
    """

    @torch.no_grad()
    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.weights = torch.cat([each.parameter.view(each.shape) for each in members])
        self.gradients, self.momenta = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        for each, weight, gradient in zip(
            members, self.apart(self.weights), self.apart(self.gradients), strict=True
        ):
            each.parameter.data, each.parameter.grad = weight, gradient
        self.gain = max(1.0, self.weights.shape[1] / self.weights.shape[2]) ** 0.5

    def apart(self, stack: Tensor) -> list[Tensor]:
        """The members' shares of a stack, as views."""
        shares = torch.split(stack, [each.parts for each in self.members])
        return [share.view(each.parameter.shape) for share, each in zip(shares, self.members, strict=True)]


@dataclass(frozen=True)
class Member:
    """One parameter of a stack."""

    name: str
    parameter: nn.Parameter
    parts: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.parts, self.parameter.shape[0] // self.parts, self.parameter.shape[1])


class Muon:
    """Momentum, orthogonalised (Jordan et al., 2024), with a cautious weight decay."""

    def __init__(
        self, members: list[Member], config: OptimConfig, ranks: Ranks, dtype: torch.dtype, *, compiled: bool
    ) -> None:
        self.apply = torch.compile(decay_and_add, dynamic=False) if compiled else decay_and_add
        by_shape: dict[tuple[int, int], list[Member]] = defaultdict(list)
        for each in members:
            by_shape[each.shape[1:]].append(each)
        self.stacks = [Stack(each) for each in by_shape.values()]
        self.config, self.ranks = config, ranks
        self.orthogonalised = partial(orthogonalised, dtype=dtype)
        self.rate = torch.tensor(config.matrix_rate, device=members[0].parameter.device)

    @torch.no_grad()
    def step(self) -> None:
        """Uses up the gradients: they are overwritten."""
        config = self.config
        for stack in self.stacks:
            stack.momenta.lerp_(stack.gradients, 1 - config.momentum)
            ahead = stack.gradients.lerp_(stack.momenta, config.momentum)
            update = self.ranks.shared_out(self.orthogonalised, ahead)
            self.apply(stack.weights, update, self.rate, config.weight_decay, stack.gain)


def decay_and_add(weights: Tensor, update: Tensor, rate: Tensor, decay: float, gain: float) -> None:
    """weights ← weights − rate · (gain · update + decay · weights where both have one sign), in place."""
    pull = torch.where(update * weights > 0, weights * decay, 0.0)
    weights.sub_(pull.add_(update, alpha=gain).mul_(rate))


class Optimizers:
    """Both optimizers as one; rates follow `set_multiplier`, and live on the device, where a graph can read them."""

    def __init__(
        self,
        model: Transformer,
        config: OptimConfig,
        ranks: Ranks | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        compiled: bool = False,
    ) -> None:
        """dtype: that the device multiplies matrices in."""
        matrices: list[Member] = []
        scalars: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.startswith("blocks."):
                matrices.append(Member(name, parameter, 3 if name.endswith("qkv.weight") else 1))
            elif name != "embedding.weight":
                scalars.append(parameter)
        self.config = config
        embedding = model.embedding.weight
        groups = [([embedding], config.embedding_rate), (scalars, config.scalar_rate)]
        self.muon = Muon(matrices, config, ranks or Ranks(), dtype, compiled=compiled)
        self.adam = torch.optim.AdamW(
            [
                {"params": held, "lr": embedding.new_tensor(rate, requires_grad=False)}
                for held, rate in groups
                if held
            ],
            betas=(config.beta1, config.beta2),
            eps=1e-10,
            weight_decay=0.0,
            fused=embedding.device.type in {"cpu", "cuda"},
            capturable=embedding.device.type == "cuda",
        )
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        # AdamW's state, made now so that a step allocates nothing that lasts.
        for group in self.adam.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
                on = parameter.device if parameter.device.type == "cuda" else "cpu"
                self.adam.state[parameter] = {
                    "step": torch.zeros((), device=on),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def reset(self) -> None:
        """As before the first step: no gradient, no momentum."""
        self.zero_grad()
        for stack in self.muon.stacks:
            stack.momenta.zero_()
        for state in self.adam.state.values():
            torch._foreach_zero_(list(state.values()))

    def set_multiplier(self, multiplier: float) -> None:
        """Set every learning rate to its full strength times `multiplier`."""
        self.muon.rate.fill_(self.config.matrix_rate * multiplier)
        full = (self.config.embedding_rate, self.config.scalar_rate)
        for group, rate in zip(self.adam.param_groups, full, strict=False):
            group["lr"].fill_(rate * multiplier)

    def step(self) -> None:
        """Move the weights; the gradients are zero after it."""
        self.muon.step()
        self.adam.step()
        self.zero_grad()

    def gradients(self) -> list[Tensor]:
        """All gradients, as they lie: a tensor for each stack and each parameter of AdamW's."""
        held = [parameter.grad for group in self.adam.param_groups for parameter in group["params"]]
        return [stack.gradients for stack in self.muon.stacks] + held

    def zero_grad(self) -> None:
        """Gradients to zero, where they lie."""
        torch._foreach_zero_(self.gradients())

    def tensors(self) -> dict[str, Tensor]:
        """Every state tensor by `parameter/state`, for a checkpoint; Muon's are views."""
        found = {
            f"{each.name}/momentum": share
            for stack in self.muon.stacks
            for each, share in zip(stack.members, stack.apart(stack.momenta), strict=True)
        }
        for parameter, state in self.adam.state.items():
            found |= {f"{self.names[parameter]}/{key}": value for key, value in state.items()}
        return found

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave. Raises KeyError where one is missing."""
        for name, place in self.tensors().items():
            place.copy_(tensors[name])
