"""Muon's updates are orthogonal, the schedule scales every rate, and the state survives a checkpoint."""

from __future__ import annotations

import torch

from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.training.optim import OptimConfig, Optimizers, orthogonalise


def test_orthogonalising_moves_every_singular_value_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 32, 32), (2, 16, 64), (2, 64, 16)):
        singular_values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
        assert singular_values.min() > 0.6
        assert singular_values.max() < 1.4


def test_muon_treats_a_fused_qkv_matrix_as_three_matrices() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocabulary=20, layers=1, width=16, heads=1, context=8))
    optimizers = Optimizers(model, OptimConfig(matrix_rate=1.0, weight_decay=0.0))
    weight = model.blocks[0].attention.qkv.weight  # type: ignore[union-attr]
    before = weight.detach().clone()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.copy_(torch.randn_like(parameter))
    optimizers.step()
    for update in (weight - before).detach().split(16):
        assert 0.6 < torch.linalg.svdvals(update).max() < 1.4
        assert torch.linalg.svdvals(update).min() > 0.4


def test_the_multiplier_scales_every_rate() -> None:
    optimizers = Optimizers(
        Transformer(ModelConfig(vocabulary=20, layers=1, width=16, heads=1)), OptimConfig()
    )
    optimizers.set_multiplier(0.5)
    optimizers.set_multiplier(0.25)
    rates = [optimizers.muon.rate, *(group["lr"] for group in optimizers.adam.param_groups)]
    config = OptimConfig()
    assert rates == [0.25 * config.matrix_rate, 0.25 * config.embedding_rate, 0.25 * config.scalar_rate]


def test_a_restored_state_gives_the_same_next_step() -> None:
    def take_step(model: Transformer, optimizers: Optimizers, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(torch.randn_like(parameter))
        optimizers.step()

    shape = ModelConfig(vocabulary=20, layers=1, width=16, heads=1)
    model = Transformer(shape)
    optimizers = Optimizers(model, OptimConfig())
    take_step(model, optimizers, 1)
    restored_model = Transformer(shape)
    restored_model.load_state_dict(model.state_dict())
    restored_optimizers = Optimizers(restored_model, OptimConfig())
    restored_optimizers.load_state_tensors(
        {name: tensor.clone() for name, tensor in optimizers.state_tensors().items()}
    )
    take_step(model, optimizers, 2)
    take_step(restored_model, restored_optimizers, 2)
    for parameter, restored in zip(model.parameters(), restored_model.parameters(), strict=True):
        assert torch.equal(parameter, restored)
