from __future__ import annotations

import pytest
import torch

from smalltale.errors import RecipeError
from smalltale.model.attention import QUERY_BLOCK, blockwise_attention, document_mask
from smalltale.model.loss import IGNORE_INDEX, chunked_cross_entropy
from smalltale.model.transformer import ModelConfig, Transformer, norm

TINY = ModelConfig(vocabulary=50, layers=2, width=32, heads=2, context=24)


def random_model() -> Transformer:
    """A tiny model without zero weights, so that every module affects the logits."""
    torch.manual_seed(0)
    model = Transformer(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_a_token_does_not_see_later_tokens() -> None:
    model, ids = random_model(), torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 50
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_a_document_in_a_packed_row_has_the_logits_of_a_row_of_its_own() -> None:
    model, ids = random_model(), torch.randint(0, 50, (1, 20))
    document_ids = torch.tensor([[0] * 9 + [1] * 11])
    packed = model(ids, document_ids)
    torch.testing.assert_close(packed[:, :9], model(ids[:, :9]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed[:, 9:], model(ids[:, 9:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [16, 2 * QUERY_BLOCK, 2 * QUERY_BLOCK + 44])
def test_blockwise_attention_equals_pytorchs(length: int) -> None:
    torch.manual_seed(0)
    q, k = norm(torch.randn(2, 3, length, 8)), norm(torch.randn(2, 3, length, 8))
    v = torch.randn(2, 3, length, 8)
    mask = document_mask(torch.arange(length)[None].expand(2, length) // (length // 3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(blockwise_attention(q, k, v, mask), expected)


@pytest.mark.parametrize("cap", [0.0, 4.0, 100.0])
def test_the_chunked_loss_and_its_gradients_equal_cross_entropy(cap: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(13, 8, requires_grad=True)
    weight = (3 * torch.randn(20, 8)).requires_grad_()
    targets = torch.randint(0, 20, (13,))
    targets[4] = IGNORE_INDEX
    loss = chunked_cross_entropy(features, weight, targets, cap=cap, chunk=5, compiled=False)
    loss.backward()
    chunked_gradients = (features.grad, weight.grad)
    features.grad = weight.grad = None
    logits = features @ weight.t()
    capped = logits / torch.sqrt(1 + (logits / cap) ** 2) if cap else logits
    expected = torch.nn.functional.cross_entropy(capped, targets, reduction="sum")
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(chunked_gradients, (features.grad, weight.grad))


def test_logits_stay_within_the_soft_cap() -> None:
    model = random_model()
    with torch.no_grad():
        model.embedding.weight.mul_(100)
    assert model(torch.randint(0, 50, (2, 5))).abs().max() <= TINY.soft_cap


def test_a_new_model_predicts_nearly_uniformly() -> None:
    torch.manual_seed(0)
    logits = Transformer(TINY)(torch.randint(0, 50, (2, 5)))
    assert logits.std() < 0.5


def test_a_row_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the context of 24"):
        random_model()(torch.zeros(1, 25, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30, "heads": 4}, "try a width of 32"),
        ({"layers": 0}, "at least 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ],
)
def test_the_error_of_an_impossible_shape_says_the_fix(changes: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ModelConfig(**changes)  # type: ignore[arg-type]
