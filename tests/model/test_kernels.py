"""The GPU kernels agree with plain float32, on sizes that do not fill their tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.model.attention import attend, document_mask
from smalltale.model.kernels.dispatch import FusedFeedForward, document_attention, has_fused_matmul
from smalltale.model.loss import IGNORE_INDEX, FusedCrossEntropy, soft_cap
from smalltale.model.transformer import EPSILON, norm, rotate, rotation_table

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_fused_matmul(torch.device("cuda"), torch.bfloat16)),
    reason="needs a Hopper GPU and Triton",
)


def random_tensor(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def relative_error(actual: Tensor | None, expected: Tensor | None) -> float:
    assert actual is not None
    assert expected is not None
    actual, expected = actual.detach().float(), expected.detach().float()
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize(("rows", "width", "hidden"), [(1000, 72, 200), (512, 128, 512)])
def test_the_fused_feed_forward_equals_float32(rows: int, width: int, hidden: int) -> None:
    torch.manual_seed(0)
    x = random_tensor(rows, width)
    up, down = random_tensor(hidden, width, scale=0.1), random_tensor(width, hidden, scale=0.1)
    inputs = [tensor.clone().requires_grad_() for tensor in (x, up, down)]
    plain = [tensor.float().requires_grad_() for tensor in (x, up, down)]
    upstream = random_tensor(rows, width)
    out = FusedFeedForward.apply(*inputs)
    out.backward(upstream)
    expected = F.relu(plain[0] @ plain[1].t()).square() @ plain[2].t()
    expected.backward(upstream.float())
    assert relative_error(out, expected) < 0.01
    for fused_input, plain_input in zip(inputs, plain, strict=True):
        assert relative_error(fused_input.grad, plain_input.grad) < 0.01


@pytest.mark.parametrize(("rows", "width", "vocabulary"), [(1000, 72, 200), (512, 128, 8192)])
def test_the_fused_cross_entropy_equals_float32(rows: int, width: int, vocabulary: int) -> None:
    torch.manual_seed(0)
    features, weight = random_tensor(rows, width), random_tensor(vocabulary, width, scale=0.1)
    targets = torch.randint(0, vocabulary, (rows,), device="cuda")
    targets[5:9] = IGNORE_INDEX
    fused_features, fused_weight = features.clone().requires_grad_(), weight.float().requires_grad_()
    loss = FusedCrossEntropy.apply(fused_features, fused_weight, targets, 15.0, 384)
    (0.01 * loss).backward()
    plain_features, plain_weight = features.float().requires_grad_(), weight.float().requires_grad_()
    logits = soft_cap(plain_features @ plain_weight.t(), 15.0)
    expected = F.cross_entropy(logits, targets, reduction="sum")
    (0.01 * expected).backward()
    assert abs(loss.item() / expected.item() - 1) < 1e-4
    assert relative_error(fused_features.grad, plain_features.grad) < 0.01
    assert relative_error(fused_weight.grad, plain_weight.grad) < 0.01


def test_document_attention_equals_float32() -> None:
    torch.manual_seed(0)
    B, T, H, D = 3, 160, 2, 64
    cosine, sine = (table.cuda() for table in rotation_table(T, D, 10_000.0))
    begins = torch.zeros(B * T, dtype=torch.int32, device="cuda")
    ends = torch.zeros_like(begins)
    for begin, end in pairwise([0, 30, 160, 290, 300, 320, 480]):
        begins[begin:end], ends[begin:end] = begin, end
    qkv = random_tensor(B, T, 3, H, D).requires_grad_()
    plain_qkv = qkv.detach().float().requires_grad_()
    upstream = random_tensor(B, T, H, D)
    out, _, _ = document_attention(qkv, cosine, sine, torch.stack((begins, ends)), EPSILON)
    out.backward(upstream)
    q, k, v = plain_qkv.unbind(2)
    q, k = (rotate(norm(tensor), (cosine, sine)) for tensor in (q, k))
    expected = attend(q, k, v, document_mask(begins.view(B, T)))
    expected.backward(upstream.float())
    assert relative_error(out, expected) < 0.01
    assert relative_error(qkv.grad, plain_qkv.grad) < 0.01
