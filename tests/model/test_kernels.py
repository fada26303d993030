"""Our GPU kernels against plain float32, on sizes that do not fill their tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.model.attention import attend, same_story
from smalltale.model.kernels.dispatch import FeedForwardProducts, has_fused_products, story_attention
from smalltale.model.loss import ExponentialCrossEntropy, soft_cap
from smalltale.model.transformer import EPSILON, norm, rotate, rotation_table

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_fused_products(torch.device("cuda"), torch.bfloat16)),
    reason="needs a Hopper GPU and Triton",
)


def drawn(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize(("rows", "width", "hidden"), [(1000, 72, 200), (512, 128, 512)])
def test_the_feed_forward_products_are_those_of_float32(rows: int, width: int, hidden: int) -> None:
    torch.manual_seed(0)
    given = [drawn(rows, width), drawn(hidden, width, scale=0.1), drawn(width, hidden, scale=0.1)]
    ours = [each.clone().requires_grad_() for each in given]
    plain = [each.float().requires_grad_() for each in given]
    upstream = drawn(rows, width)
    out = FeedForwardProducts.apply(*ours)
    out.backward(upstream)
    wanted = F.relu(plain[0] @ plain[1].t()).square() @ plain[2].t()
    wanted.backward(upstream.float())
    assert apart(out, wanted) < 0.01
    for one, other in zip(ours, plain, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert apart(one.grad, other.grad) < 0.01


@pytest.mark.parametrize(("rows", "width", "vocabulary"), [(1000, 72, 200), (512, 128, 8192)])
def test_the_loss_by_exponentials_is_cross_entropy(rows: int, width: int, vocabulary: int) -> None:
    torch.manual_seed(0)
    features, weight = drawn(rows, width), drawn(vocabulary, width, scale=0.1)
    targets = torch.randint(0, vocabulary, (rows,), device="cuda")
    targets[5:9] = -100
    one, table = features.clone().requires_grad_(), weight.float().requires_grad_()
    loss = ExponentialCrossEntropy.apply(one, table, targets, 15.0, 384)
    (0.01 * loss).backward()
    two, other = features.float().requires_grad_(), weight.float().requires_grad_()
    wanted = F.cross_entropy(soft_cap(two @ other.t(), 15.0), targets, reduction="sum")
    (0.01 * wanted).backward()
    assert abs(float(loss) / float(wanted) - 1) < 1e-4
    for found, right in ((one.grad, two.grad), (table.grad, other.grad)):
        assert found is not None
        assert right is not None
        assert apart(found, right) < 0.01


def test_attention_inside_stories_is_that_of_float32() -> None:
    torch.manual_seed(0)
    B, T, H, D = 3, 160, 2, 64
    cosine, sine = (each.cuda() for each in rotation_table(T, D, 10_000.0))
    begins = torch.zeros(B * T, dtype=torch.int32, device="cuda")
    ends = torch.zeros_like(begins)
    for begin, end in pairwise([0, 30, 160, 290, 300, 320, 480]):
        begins[begin:end], ends[begin:end] = begin, end
    ours = drawn(B, T, 3, H, D).requires_grad_()
    plain = ours.detach().float().requires_grad_()
    upstream = drawn(B, T, H, D)
    mixed, _, _ = story_attention(ours, cosine, sine, torch.stack((begins, ends)), EPSILON)
    mixed.backward(upstream)
    q, k, v = plain.unbind(2)
    q, k = (rotate(norm(each), (cosine, sine)) for each in (q, k))
    wanted = attend(q, k, v, same_story(begins.view(B, T)))
    wanted.backward(upstream.float())
    assert ours.grad is not None
    assert plain.grad is not None
    assert apart(mixed, wanted) < 0.01
    assert apart(ours.grad, plain.grad) < 0.01
