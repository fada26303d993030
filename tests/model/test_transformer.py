from __future__ import annotations

import pytest
import torch

from smalltale.errors import RecipeError
from smalltale.model.attention import QUERY_BLOCK, plain_attention, same_story
from smalltale.model.loss import chunked_cross_entropy
from smalltale.model.transformer import ModelConfig, Transformer, norm

TINY = ModelConfig(vocabulary=50, layers=2, width=32, heads=2, context=24)


def a_model(seed: int = 0) -> Transformer:
    """A tiny model whose output projections are not zero, so that every part takes part."""
    torch.manual_seed(seed)
    model = Transformer(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_a_token_never_sees_a_later_one() -> None:
    model, ids = a_model(), torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 50
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_a_story_in_a_packed_row_reads_as_if_it_stood_alone() -> None:
    model, ids = a_model(), torch.randint(0, 50, (1, 20))
    story = torch.tensor([[0] * 9 + [1] * 11])
    packed = model(ids, story)
    torch.testing.assert_close(packed[:, :9], model(ids[:, :9]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed[:, 9:], model(ids[:, 9:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [16, 2 * QUERY_BLOCK, 2 * QUERY_BLOCK + 44])
def test_attention_without_the_maximum_equals_the_library(length: int) -> None:
    torch.manual_seed(0)
    q, k = norm(torch.randn(2, 3, length, 8)), norm(torch.randn(2, 3, length, 8))
    v = torch.randn(2, 3, length, 8)
    allowed = same_story(torch.arange(length)[None].expand(2, length) // (length // 3))
    library = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(plain_attention(q, k, v, allowed), library)


@pytest.mark.parametrize("cap", [0.0, 4.0, 100.0])
def test_the_chunked_loss_and_its_gradients_equal_the_plain_ones(cap: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(13, 8, requires_grad=True)
    weight = (3 * torch.randn(20, 8)).requires_grad_()
    targets = torch.randint(0, 20, (13,))
    targets[4] = -100
    loss = chunked_cross_entropy(features, weight, targets, cap=cap, chunk=5, compiled=False)
    loss.backward()
    chunked = (features.grad, weight.grad)
    features.grad = weight.grad = None
    logits = features @ weight.t()
    capped = logits / torch.sqrt(1 + (logits / cap) ** 2) if cap else logits
    plain = torch.nn.functional.cross_entropy(capped, targets, reduction="sum")
    plain.backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(chunked, (features.grad, weight.grad))


def test_logits_stay_within_the_soft_cap() -> None:
    model = a_model()
    with torch.no_grad():
        model.embedding.weight.mul_(100)
    assert model(torch.randint(0, 50, (2, 5))).abs().max() <= TINY.soft_cap


def test_a_new_model_predicts_nearly_evenly() -> None:
    torch.manual_seed(0)
    logits = Transformer(TINY)(torch.randint(0, 50, (2, 5)))
    assert logits.std() < 0.5


def test_a_row_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the context of 24"):
        a_model()(torch.zeros(1, 25, dtype=torch.long))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 30, "heads": 4}, "try a width of 32"),
        ({"layers": 0}, "at least 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ],
)
def test_a_shape_that_cannot_be_built_says_the_mend(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        ModelConfig(**wrong)  # type: ignore[arg-type]
