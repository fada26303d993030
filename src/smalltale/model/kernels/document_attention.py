"""Causal attention inside each story on a GPU: norm, rotation, attention in one kernel forward and two backward.

In: raw queries, keys and values (B, T, 3, H, D) in bfloat16, rotations, and for each token where its story begins and
ends. Out: mixed values (B, T, H, D).
Beware: stories are short, so a block of queries meets three blocks of keys or so, and everything else is left out. QK-norm
bounds the scores, so exp needs no running maximum (Dao et al., arXiv 2205.14135, has the general case).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from smalltale.model.kernels.fused_matmul import tiled

HEAD_WIDTHS = {32, 64, 128}


@dataclass(frozen=True)
class Launch:
    """How a kernel runs: rows a program holds, rows it meets at once, warps, stages of loading ahead."""

    block: int
    other: int
    warps: int
    stages: int

    def told(self) -> dict[str, int]:
        return {"block": self.block, "num_warps": self.warps, "num_stages": self.stages}


FORWARD, QUERIES, KEYS = Launch(64, 64, 4, 3), Launch(64, 32, 4, 1), Launch(64, 32, 4, 3)
"""The fastest of those tried with heads of 128: forward on an H100 (2026-11-26), the others on an H200 (2026-11-23)."""


@triton.jit
def normalised(base, rows, valid, stride, half: tl.constexpr, epsilon):
    """Rows of raw queries or keys as two halves, normalised, and what they were multiplied with."""
    at = base + rows[:, None] * stride + tl.arange(0, half)[None, :]
    first = tl.load(at, mask=valid[:, None], other=0.0).to(tl.float32)
    second = tl.load(at + half, mask=valid[:, None], other=0.0).to(tl.float32)
    square = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    scale = 1.0 / tl.sqrt(square / (2 * half) + epsilon)
    return first * scale[:, None], second * scale[:, None], scale


@triton.jit
def rotation(cosine, sine, place, valid, half: tl.constexpr):
    """Cosines and sines of places in a row, each (block, half)."""
    at = place[:, None] * half + tl.arange(0, half)[None, :]
    c = tl.load(cosine + at, mask=valid[:, None], other=0.0)
    s = tl.load(sine + at, mask=valid[:, None], other=0.0)
    return c, s


@triton.jit
def rotate_kernel(
    qkv,
    cosine,
    sine,
    turned,
    count,
    row_length,
    heads,
    gain,
    epsilon,
    half: tl.constexpr,
    block: tl.constexpr,
):
    """turned: (2, H, B·T, D): queries times gain, and keys, as the other kernels multiply them."""
    width: tl.constexpr = 2 * half
    head, stride = tl.program_id(1), 3 * heads * width
    rows = tl.program_id(0) * block + tl.arange(0, block)
    valid = rows < count
    c, s = rotation(cosine, sine, rows % row_length, valid, half)
    kind = qkv.dtype.element_ty
    for part in tl.static_range(2):
        first, second, _ = normalised(qkv + (part * heads + head) * width, rows, valid, stride, half, epsilon)
        if part == 0:
            first, second = first * gain, second * gain
        at = (
            turned
            + (part * heads + head) * count * width
            + rows[:, None] * width
            + tl.arange(0, half)[None, :]
        )
        tl.store(at, (first * c - second * s).to(kind), mask=valid[:, None])
        tl.store(at + half, (second * c + first * s).to(kind), mask=valid[:, None])


@triton.jit
def store_unrotated(
    qkv,
    d_qkv,
    part,
    d,
    cosine,
    sine,
    rows,
    valid,
    count,
    row_length,
    heads,
    epsilon,
    half: tl.constexpr,
    block: tl.constexpr,
):
    """Store the gradient of raw rows, from d, that of the rotated ones, (block, 2 · half)."""
    width: tl.constexpr = 2 * half
    stride = 3 * heads * width
    offset = (part * heads + tl.program_id(1)) * width
    d_first, d_second = tl.split(tl.permute(tl.reshape(d, (block, 2, half)), (0, 2, 1)))
    c, s = rotation(cosine, sine, rows % row_length, valid, half)
    first, second, scale = normalised(qkv + offset, rows, valid, stride, half, epsilon)
    g_first, g_second = d_first * c + d_second * s, d_second * c - d_first * s
    along = (tl.sum(g_first * first, 1) + tl.sum(g_second * second, 1)) / width
    at = d_qkv + offset + rows[:, None] * stride + tl.arange(0, half)[None, :]
    kind = qkv.dtype.element_ty
    tl.store(at, (scale[:, None] * (g_first - first * along[:, None])).to(kind), mask=valid[:, None])
    tl.store(at + half, (scale[:, None] * (g_second - second * along[:, None])).to(kind), mask=valid[:, None])


@triton.jit
def forward_kernel(
    turned,
    keys_of,
    values_of,
    begins,
    out,
    log_total,
    count,
    heads,
    half: tl.constexpr,
    block: tl.constexpr,
    keys_block: tl.constexpr,
):
    width: tl.constexpr = 2 * half
    head = tl.program_id(1)
    rows = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, width)
    valid = rows < count
    begin = tl.load(begins + rows, mask=valid, other=count)
    q_base = turned + head * count * width
    q = tl.load(q_base + rows[:, None] * width + column[None, :], mask=valid[:, None], other=0.0)
    mixed = tl.zeros((block, width), dtype=tl.float32)
    total = tl.zeros((block,), dtype=tl.float32)
    for start in range(
        tl.min(begin, 0) // keys_block * keys_block, (tl.program_id(0) + 1) * block, keys_block
    ):
        keys = start + tl.arange(0, keys_block)
        k = keys_of.load([(heads + head) * count + start, 0])
        v = values_of.load([start, (2 * heads + head) * width])
        seen = (keys[None, :] <= rows[:, None]) & (keys[None, :] >= begin[:, None])
        weights = tl.where(seen, tl.exp2(tl.dot(q, tl.trans(k))), 0.0)
        total += tl.sum(weights, 1)
        mixed += tl.dot(weights.to(q.dtype), v)
    total = tl.where(valid, total, 1.0)
    at = out + (rows[:, None] * heads + head) * width + column[None, :]
    tl.store(at, (mixed / total[:, None]).to(q.dtype), mask=valid[:, None])
    tl.store(log_total + head * count + rows, tl.log2(total), mask=valid)


@triton.jit
def query_gradient_kernel(
    qkv,
    turned,
    cosine,
    sine,
    begins,
    out,
    log_total,
    d_out,
    d_qkv,
    along,
    count,
    row_length,
    heads,
    scale,
    epsilon,
    half: tl.constexpr,
    block: tl.constexpr,
    keys_block: tl.constexpr,
):
    width: tl.constexpr = 2 * half
    head, stride = tl.program_id(1), 3 * heads * width
    rows = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, width)
    valid = rows < count
    begin = tl.load(begins + rows, mask=valid, other=count)
    q_base, k_base = turned + head * count * width, turned + (heads + head) * count * width
    v_base = qkv + (2 * heads + head) * width
    q = tl.load(q_base + rows[:, None] * width + column[None, :], mask=valid[:, None], other=0.0)
    at = (rows[:, None] * heads + head) * width + column[None, :]
    d_mixed = tl.load(d_out + at, mask=valid[:, None], other=0.0)
    mixed = tl.load(out + at, mask=valid[:, None], other=0.0)
    delta = tl.sum(d_mixed.to(tl.float32) * mixed.to(tl.float32), 1)
    tl.store(along + head * count + rows, delta, mask=valid)
    log_sum = tl.load(log_total + head * count + rows, mask=valid, other=0.0)
    d = tl.zeros((block, width), dtype=tl.float32)
    for start in range(
        tl.min(begin, 0) // keys_block * keys_block, (tl.program_id(0) + 1) * block, keys_block
    ):
        keys = start + tl.arange(0, keys_block)
        there = keys < count
        k = tl.load(k_base + keys[:, None] * width + column[None, :], mask=there[:, None], other=0.0)
        v = tl.load(v_base + keys[:, None] * stride + column[None, :], mask=there[:, None], other=0.0)
        seen = (keys[None, :] <= rows[:, None]) & (keys[None, :] >= begin[:, None])
        weights = tl.where(seen, tl.exp2(tl.dot(q, tl.trans(k)) - log_sum[:, None]), 0.0)
        d_scores = weights * (tl.dot(d_mixed, tl.trans(v)) - delta[:, None])
        d += tl.dot(d_scores.to(q.dtype), k)
    store_unrotated(
        qkv, d_qkv, 0, d * scale, cosine, sine, rows, valid, count, row_length, heads, epsilon, half, block
    )


@triton.jit
def key_gradient_kernel(
    qkv,
    turned,
    cosine,
    sine,
    ends,
    log_total,
    d_out,
    d_qkv,
    along,
    count,
    row_length,
    heads,
    epsilon,
    half: tl.constexpr,
    block: tl.constexpr,
    queries_block: tl.constexpr,
):
    width: tl.constexpr = 2 * half
    head, stride = tl.program_id(1), 3 * heads * width
    keys = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, width)
    valid = keys < count
    end = tl.load(ends + keys, mask=valid, other=0)
    q_base, k_base = turned + head * count * width, turned + (heads + head) * count * width
    v_offset = (2 * heads + head) * width + keys[:, None] * stride + column[None, :]
    k = tl.load(k_base + keys[:, None] * width + column[None, :], mask=valid[:, None], other=0.0)
    v = tl.load(qkv + v_offset, mask=valid[:, None], other=0.0)
    d = tl.zeros((block, width), dtype=tl.float32)
    d_v = tl.zeros((block, width), dtype=tl.float32)
    for start in range(
        tl.program_id(0) * block // queries_block * queries_block, tl.max(end, 0), queries_block
    ):
        rows = start + tl.arange(0, queries_block)
        there = rows < count
        q = tl.load(q_base + rows[:, None] * width + column[None, :], mask=there[:, None], other=0.0)
        at = (rows[:, None] * heads + head) * width + column[None, :]
        d_mixed = tl.load(d_out + at, mask=there[:, None], other=0.0)
        log_sum = tl.load(log_total + head * count + rows, mask=there, other=0.0)
        delta = tl.load(along + head * count + rows, mask=there, other=0.0)
        seen = (keys[:, None] <= rows[None, :]) & (rows[None, :] < end[:, None])
        weights = tl.where(seen, tl.exp2(tl.dot(k, tl.trans(q)) - log_sum[None, :]), 0.0)
        d_v += tl.dot(weights.to(k.dtype), d_mixed)
        d_scores = weights * (tl.dot(v, tl.trans(d_mixed)) - delta[None, :])
        d += tl.dot(d_scores.to(k.dtype), q)
    tl.store(d_qkv + v_offset, d_v.to(k.dtype), mask=valid[:, None])
    # The queries carry scale · log2(e), the gradient wants the scale alone.
    natural = 0.6931471805599453
    store_unrotated(
        qkv, d_qkv, 1, d * natural, cosine, sine, keys, valid, count, row_length, heads, epsilon, half, block
    )


@torch.library.custom_op("smalltale::story_attention", mutates_args=())
def story_attention(
    qkv: Tensor, cosine: Tensor, sine: Tensor, spans: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv: (B, T, 3, H, D), raw; cosine, sine: (T, D / 2) float32; spans: (2, B·T) int32, begin and end of each token's story.

    Returns the mixed values (B, T, H, D), and for the backward pass (H, B·T) float32 and (2, H, B·T, D).
    """
    B, T, _, H, D = qkv.shape
    count, half = B * T, D // 2
    out = torch.empty(B, T, H, D, dtype=qkv.dtype, device=qkv.device)
    log_total = torch.empty(H, count, device=qkv.device)
    turned = torch.empty(2, H, count, D, dtype=qkv.dtype, device=qkv.device)
    gain = 1 / (math.sqrt(D) * math.log(2))
    rotate_kernel[(triton.cdiv(count, 32), H)](
        qkv, cosine, sine, turned, count, T, H, gain, epsilon, half=half, block=32
    )
    keys_of, values_of = (
        tiled(turned.view(-1, D), FORWARD.other, D),
        tiled(qkv.view(count, -1), FORWARD.other, D),
    )
    forward_kernel[(triton.cdiv(count, FORWARD.block), H)](
        turned, keys_of, values_of, spans[0], out, log_total, count, H, half=half, keys_block=FORWARD.other,
        **FORWARD.told(),
    )  # fmt: skip
    return out, log_total, turned


@story_attention.register_fake
def _(
    qkv: Tensor, cosine: Tensor, sine: Tensor, spans: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    B, T, _, H, D = qkv.shape
    return (
        qkv.new_empty(B, T, H, D),
        qkv.new_empty(H, B * T, dtype=torch.float32),
        qkv.new_empty(2, H, B * T, D),
    )


@torch.library.custom_op("smalltale::story_attention_backward", mutates_args=())
def story_attention_backward(
    d_out: Tensor,
    qkv: Tensor,
    cosine: Tensor,
    sine: Tensor,
    spans: Tensor,
    out: Tensor,
    log_total: Tensor,
    turned: Tensor,
    epsilon: float,
) -> Tensor:
    """The gradient of qkv, of its shape."""
    B, T, _, H, D = qkv.shape
    count, half = B * T, D // 2
    d_qkv, along, d_out = torch.empty_like(qkv), torch.empty_like(log_total), d_out.contiguous()
    query_gradient_kernel[(triton.cdiv(count, QUERIES.block), H)](
        qkv, turned, cosine, sine, spans[0], out, log_total, d_out, d_qkv, along, count, T, H,
        1 / math.sqrt(D), epsilon, half=half, keys_block=QUERIES.other, **QUERIES.told(),
    )  # fmt: skip
    key_gradient_kernel[(triton.cdiv(count, KEYS.block), H)](
        qkv, turned, cosine, sine, spans[1], log_total, d_out, d_qkv, along, count, T, H,
        epsilon, half=half, queries_block=KEYS.other, **KEYS.told(),
    )  # fmt: skip
    return d_qkv


@story_attention_backward.register_fake
def _(
    d_out: Tensor,
    qkv: Tensor,
    cosine: Tensor,
    sine: Tensor,
    spans: Tensor,
    out: Tensor,
    log_total: Tensor,
    turned: Tensor,
    epsilon: float,
) -> Tensor:
    return torch.empty_like(qkv)


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    qkv, cosine, sine, spans, ctx.epsilon = inputs
    ctx.save_for_backward(qkv, cosine, sine, spans, *output)


def backward(ctx: Any, d_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    d_qkv = story_attention_backward(d_out, *ctx.saved_tensors, ctx.epsilon)
    return d_qkv, None, None, None, None


story_attention.register_autograd(backward, setup_context=keep)
