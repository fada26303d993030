from __future__ import annotations

import torch

from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.training.optim import OptimConfig, Optimizers, orthogonalised


def test_orthogonalising_brings_every_singular_value_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 32, 32), (2, 16, 64), (2, 64, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
        assert values.min() > 0.6
        assert values.max() < 1.4


def test_a_fused_qkv_matrix_is_three_matrices_to_muon() -> None:
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


def test_state_taken_out_and_put_back_gives_the_same_next_step() -> None:
    def stepped(model: Transformer, optimizers: Optimizers, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(torch.randn_like(parameter))
        optimizers.step()

    shape = ModelConfig(vocabulary=20, layers=1, width=16, heads=1)
    first = Transformer(shape)
    one = Optimizers(first, OptimConfig())
    stepped(first, one, 1)
    second = Transformer(shape)
    second.load_state_dict(first.state_dict())
    two = Optimizers(second, OptimConfig())
    two.load_tensors({name: each.clone() for name, each in one.tensors().items()})
    stepped(first, one, 2)
    stepped(second, two, 2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
