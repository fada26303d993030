"""Training choices that smalltale does not have, each in a minimal implementation, for training/ablation.py.

Input: the optimizers of a run, modified in place, or the shape of a model. Output: the same optimizers, or another model.
Written for one process on a CPU. A choice that wins moves into smalltale; a choice that loses stays here, so that the tables in
docs/log.md can be reproduced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.model.attention import attend
from smalltale.model.transformer import Block, ModelConfig, Transformer, norm, rotate
from smalltale.training.batches import MicroBatch
from smalltale.training.gradients import GradientAccumulator
from smalltale.training.optim import MatrixStack, Optimizers

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Muon's original polynomial (Jordan et al., 2024), the same in all five iterations."""


def newton_schulz(optimizers: Optimizers) -> None:
    """Muon's original polynomial instead of Polar Express."""
    a, b, c = NEWTON_SCHULZ

    def orthogonalise(matrices: Tensor) -> Tensor:
        X = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
        tall = X.shape[-2] > X.shape[-1]
        X = (X.mT if tall else X).to(torch.bfloat16)
        for _ in range(5):
            A = X @ X.mT
            X = a * X + (b * A + c * A @ A) @ X
        return X.mT if tall else X

    optimizers.muon.orthogonalise = orthogonalise  # type: ignore[assignment]


def normuon(optimizers: Optimizers) -> None:
    """Divide each neuron's update by its running RMS and keep the norm of the matrix (arXiv 2510.05491)."""
    muon, mean_squares = optimizers.muon, {}
    original = muon.orthogonalise

    def orthogonalise(matrices: Tensor) -> Tensor:
        update = original(matrices).float()
        mean_square = update.square().mean(-1, keepdim=True)
        running = mean_squares.setdefault(tuple(matrices.shape), torch.zeros_like(mean_square))
        normalised = update / running.lerp_(mean_square, 0.05).sqrt().add(1e-10)
        scale = torch.linalg.matrix_norm(update) / (torch.linalg.matrix_norm(normalised) + 1e-10)
        return normalised * scale[:, None, None]

    muon.orthogonalise = orthogonalise  # type: ignore[assignment]


def plain_decay(optimizers: Optimizers) -> None:
    """Plain weight decay, also where the update moves a weight away from zero."""

    def decay_and_add(weights: Tensor, update: Tensor, rate: Tensor, decay: float, gain: float) -> None:
        weights.sub_((weights * decay).add_(update, alpha=gain).mul_(rate))

    optimizers.muon.apply_update = torch.compile(decay_and_add, dynamic=False)


class AdamOnMatrices:
    """AdamW in place of Muon."""

    def __init__(self, stacks: list[MatrixStack], rate: float) -> None:
        self.stacks, self.peak_rate, self.rate = stacks, rate, torch.ones(())
        self.parameters = [nn.Parameter(stack.weights) for stack in stacks]
        for parameter, stack in zip(self.parameters, stacks, strict=True):
            parameter.grad = stack.gradients
        self.adam = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1
        )

    def step(self) -> None:
        # Optimizers sets `rate` to Muon's peak rate of 0.02 times the schedule's multiplier.
        self.adam.param_groups[0]["lr"] = float(self.rate) / 0.02 * self.peak_rate
        self.adam.step()


def adam_on_matrices(rate: float) -> Any:
    """AdamW with this rate for the layers' matrices."""

    def change(optimizers: Optimizers) -> None:
        optimizers.muon = AdamOnMatrices(optimizers.muon.stacks, rate)  # type: ignore[assignment]

    return change


class WithIds(Transformer):
    """A transformer whose layers can read the token ids, set before each pass."""

    def set_ids(self, ids: Tensor) -> None:
        self.ids = ids

    def forward(self, ids: Tensor, story: Tensor | None = None) -> Tensor:
        self.set_ids(ids)
        return super().forward(ids, story)


class GradientsWithIds(GradientAccumulator):
    """Sets the ids of a `WithIds` model before each pass."""

    def loss(self, batch: MicroBatch) -> Tensor:
        if isinstance(self.model, WithIds):
            self.model.set_ids(batch.ids)
        return super().loss(batch)


class GainBlock(Block):
    """Multiplies queries by a learned gain per head, which QK-norm removes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.query_gain = nn.Parameter(torch.ones(config.heads, 1))

    def forward(
        self, x: Tensor, first: Tensor, rotation: tuple[Tensor, Tensor], mask_or_spans: Tensor | None
    ) -> Tensor:
        x = self.mix_embedding(x, first)
        q, k, v = self.attention.project(norm(x), rotation)
        mixed = attend(q * self.query_gain.to(q.dtype), k, v, mask_or_spans)
        x = x + self.attention.out(mixed.reshape(x.shape))
        return x + self.feed_forward(norm(x))  # type: ignore[no-any-return]


class QKGain(Transformer):
    """GainBlock in every layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(GainBlock(config) for _ in range(config.layers))
        self.reset_parameters()


class ValueBlock(Block):
    """Adds a token embedding to the values; `first` has it concatenated to the input embedding along the features."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.value_scale = nn.Parameter(torch.full((), 0.5))

    def forward(
        self, x: Tensor, first: Tensor, rotation: tuple[Tensor, Tensor], mask_or_spans: Tensor | None
    ) -> Tensor:
        first, values = first.chunk(2, -1)
        x = self.mix_embedding(x, first)
        q, k, v = self.attention.project_raw(norm(x)).unbind(2)
        v = v + self.value_scale.to(v.dtype) * values.view_as(v)
        mixed = attend(rotate(norm(q), rotation), rotate(norm(k), rotation), v, mask_or_spans)
        x = x + self.attention.out(mixed.reshape(x.shape))
        return x + self.feed_forward(norm(x))  # type: ignore[no-any-return]


class ValueEmbedding(WithIds):
    """A separate embedding for the values of the last layer; costs vocabulary × width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks[-1] = ValueBlock(config)
        self.values = nn.Parameter(torch.empty(config.vocabulary, config.width))
        nn.init.normal_(self.values, std=0.02)
        self.reset_parameters()

    def trunk(
        self, embedded: Tensor, mask_or_spans: Tensor | None = None, compiled_blocks: Any = None
    ) -> Tensor:
        rotation = self.rotation(0, embedded.shape[1])
        x = first = norm(embedded)
        *blocks, last = compiled_blocks or self.blocks
        for block in blocks:
            x = block(x, first, rotation, mask_or_spans)
        values = norm(F.embedding(self.ids, self.values)).to(x.dtype)
        return norm(last(x, torch.cat((first, values), -1), rotation, mask_or_spans))


class HashEmbedding(WithIds):
    """A table of hashed token pairs, added to the embedding; costs rows × width (after arXiv 1709.03933)."""

    ROWS = 2048

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.pairs = nn.Parameter(torch.empty(self.ROWS, config.width))
        nn.init.zeros_(self.pairs)

    def trunk(
        self, embedded: Tensor, mask_or_spans: Tensor | None = None, compiled_blocks: Any = None
    ) -> Tensor:
        previous = F.pad(self.ids[:, :-1], (1, 0))
        row = (previous * 1_000_003 + self.ids * 8_191) % self.ROWS
        added = F.embedding(row, self.pairs).to(embedded.dtype)
        return super().trunk(embedded + added, mask_or_spans, compiled_blocks)


class UntiedHead(WithIds):
    """Separate input embedding and output head; costs vocabulary × width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.look_up = nn.Parameter(self.embedding.weight.detach().clone())

    def trunk(
        self, embedded: Tensor, mask_or_spans: Tensor | None = None, compiled_blocks: Any = None
    ) -> Tensor:
        return super().trunk(
            F.embedding(self.ids, self.look_up).to(embedded.dtype), mask_or_spans, compiled_blocks
        )


class Looped(Transformer):
    """Half the layers, each used twice in two rounds; under the rule each counts twice."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half = config.layers // 2
        self.blocks = nn.ModuleList([*self.blocks[:half], *self.blocks[:half]])
