"""Choices for training that smalltale does not have, each as small as it can be tried: what benchmarks/ablation.py compares.

In: the optimizers of a run, to be changed in place, or the shape of a model. Out: the same optimizers, or another model.
Beware: written for one process on a CPU. What wins here moves into smalltale; what loses stays here, so that
the tables in docs/log.md can be made again.
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
"""Muon's first polynomial (Jordan et al., 2024), the same in each of five steps."""


def newton_schulz(optimizers: Optimizers) -> None:
    """Muon's first polynomial instead of the Polar Express."""
    a, b, c = NEWTON_SCHULZ

    def orthogonalised(matrices: Tensor) -> Tensor:
        X = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
        tall = X.shape[-2] > X.shape[-1]
        X = (X.mT if tall else X).to(torch.bfloat16)
        for _ in range(5):
            A = X @ X.mT
            X = a * X + (b * A + c * A @ A) @ X
        return X.mT if tall else X

    optimizers.muon.orthogonalise = orthogonalised  # type: ignore[assignment]


def normuon(optimizers: Optimizers) -> None:
    """Each neuron's update divided by the running size of its own updates, the whole kept as large (arXiv 2510.05491)."""
    muon, sizes = optimizers.muon, {}
    plain = muon.orthogonalise

    def orthogonalised(matrices: Tensor) -> Tensor:
        update = plain(matrices).float()
        now = update.square().mean(-1, keepdim=True)
        seen = sizes.setdefault(tuple(matrices.shape), torch.zeros_like(now))
        even = update / seen.lerp_(now, 0.05).sqrt().add(1e-10)
        kept = torch.linalg.matrix_norm(update) / (torch.linalg.matrix_norm(even) + 1e-10)
        return even * kept[:, None, None]

    muon.orthogonalise = orthogonalised  # type: ignore[assignment]


def plain_decay(optimizers: Optimizers) -> None:
    """Weight decay everywhere, also where the update already moves away from zero."""

    def decay_and_add(weights: Tensor, update: Tensor, rate: Tensor, decay: float, gain: float) -> None:
        weights.sub_((weights * decay).add_(update, alpha=gain).mul_(rate))

    optimizers.muon.apply_update = torch.compile(decay_and_add, dynamic=False)


class AdamOnMatrices:
    """AdamW where Muon stood."""

    def __init__(self, stacks: list[MatrixStack], rate: float) -> None:
        self.stacks, self.full, self.rate = stacks, rate, torch.ones(())
        self.held = [nn.Parameter(each.weights) for each in stacks]
        for parameter, stack in zip(self.held, stacks, strict=True):
            parameter.grad = stack.gradients
        self.adam = torch.optim.AdamW(self.held, lr=rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1)

    def step(self) -> None:
        # Optimizers sets `rate` to Muon's full rate of 0.02 times the schedule's multiplier.
        self.adam.param_groups[0]["lr"] = float(self.rate) / 0.02 * self.full
        self.adam.step()


def adam_on_matrices(rate: float) -> Any:
    """AdamW at this rate for the layers' matrices too."""

    def change(optimizers: Optimizers) -> None:
        optimizers.muon = AdamOnMatrices(optimizers.muon.stacks, rate)  # type: ignore[assignment]

    return change


class WithIds(Transformer):
    """A transformer whose parts may look at the token ids: `told` before each pass."""

    def tell(self, ids: Tensor) -> None:
        self.ids = ids

    def forward(self, ids: Tensor, story: Tensor | None = None) -> Tensor:
        self.tell(ids)
        return super().forward(ids, story)


class TellingGradients(GradientAccumulator):
    """Gradients that tell a `WithIds` its ids."""

    def loss(self, batch: MicroBatch) -> Tensor:
        if isinstance(self.model, WithIds):
            self.model.tell(batch.ids)
        return super().loss(batch)


class GainBlock(Block):
    """Queries times a learned gain a head, which QK-norm takes away."""

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
    """Values have an embedding of the token added; `first` brings it behind the embedding, along the features."""

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
    """An embedding of its own for the values of the last layer; it costs vocabulary × width."""

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
    """A table of hashed pairs of tokens, added to the embedding; it costs rows × width (after arXiv 1709.03933)."""

    ROWS = 2048

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.pairs = nn.Parameter(torch.empty(self.ROWS, config.width))
        nn.init.zeros_(self.pairs)

    def trunk(
        self, embedded: Tensor, mask_or_spans: Tensor | None = None, compiled_blocks: Any = None
    ) -> Tensor:
        before = F.pad(self.ids[:, :-1], (1, 0))
        place = (before * 1_000_003 + self.ids * 8_191) % self.ROWS
        added = F.embedding(place, self.pairs).to(embedded.dtype)
        return super().trunk(embedded + added, mask_or_spans, compiled_blocks)


class UntiedHead(WithIds):
    """A table of its own for the look-up beside the head's matrix; it costs vocabulary × width."""

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
    """Half the layers, each used twice, one round after the other; under the rule each counts twice."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half = config.layers // 2
        self.blocks = nn.ModuleList([*self.blocks[:half], *self.blocks[:half]])
