"""Causal attention within documents on a GPU: QK-norm, RoPE and attention in one custom operator.

Input: raw queries, keys and values (B, T, 3, H, D) in bfloat16, RoPE tables, and for each token where its document begins
and ends. Output: (B, T, H, D). Documents are short, so a block of queries needs about three blocks of keys; all others are
skipped. QK-norm bounds the scores, so exp needs no running maximum (Dao et al., arXiv 2205.14135, has the general case).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from smalltale.model.kernels.fused_matmul import tile_descriptor

HEAD_WIDTHS = {32, 64, 128}


@dataclass(frozen=True)
class LaunchConfig:
    """How a kernel is launched."""

    block: int
    """Rows that one program computes."""
    inner_block: int
    """Rows that one iteration of a program's loop loads."""
    warps: int
    stages: int
    """Depth of the load pipeline."""

    def options(self) -> dict[str, int]:
        return {"block": self.block, "num_warps": self.warps, "num_stages": self.stages}


FORWARD, QUERY_GRADIENT, KEY_GRADIENT = (
    LaunchConfig(64, 64, 4, 3), LaunchConfig(64, 32, 4, 1), LaunchConfig(64, 32, 4, 3),
)  # fmt: skip
"""The fastest of those tried with heads of 128: forward on an H100 (2026-11-26), the others on an H200 (2026-11-23)."""


@triton.jit
def load_normalised(base, rows, valid, stride, half_width: tl.constexpr, epsilon):
    """Both halves of raw query or key rows after RMS norm, and the norm's scale for each row."""
    pointers = base + rows[:, None] * stride + tl.arange(0, half_width)[None, :]
    first = tl.load(pointers, mask=valid[:, None], other=0.0).to(tl.float32)
    second = tl.load(pointers + half_width, mask=valid[:, None], other=0.0).to(tl.float32)
    sum_of_squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    scale = 1.0 / tl.sqrt(sum_of_squares / (2 * half_width) + epsilon)
    return first * scale[:, None], second * scale[:, None], scale


@triton.jit
def load_rotation(cosine, sine, positions, valid, half_width: tl.constexpr):
    """RoPE cosines and sines of positions, each (block, half_width)."""
    offsets = positions[:, None] * half_width + tl.arange(0, half_width)[None, :]
    c = tl.load(cosine + offsets, mask=valid[:, None], other=0.0)
    s = tl.load(sine + offsets, mask=valid[:, None], other=0.0)
    return c, s


@triton.jit
def rotate_kernel(
    qkv, cosine, sine, rotated, token_count, row_length, heads, query_scale, epsilon,
    half_width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """rotated: (2, H, B·T, D), normalised and rotated queries times `query_scale`, and keys, as the other kernels read them."""
    width: tl.constexpr = 2 * half_width
    head, stride = tl.program_id(1), 3 * heads * width
    rows = tl.program_id(0) * block + tl.arange(0, block)
    valid = rows < token_count
    c, s = load_rotation(cosine, sine, rows % row_length, valid, half_width)
    dtype = qkv.dtype.element_ty
    for part in tl.static_range(2):
        first, second, _ = load_normalised(
            qkv + (part * heads + head) * width, rows, valid, stride, half_width, epsilon
        )
        if part == 0:
            first, second = first * query_scale, second * query_scale
        pointers = (
            rotated
            + (part * heads + head) * token_count * width
            + rows[:, None] * width
            + tl.arange(0, half_width)[None, :]
        )
        tl.store(pointers, (first * c - second * s).to(dtype), mask=valid[:, None])
        tl.store(pointers + half_width, (second * c + first * s).to(dtype), mask=valid[:, None])


@triton.jit
def store_raw_gradient(
    qkv, d_qkv, part, d_rotated, cosine, sine, rows, valid, row_length, heads, epsilon,
    half_width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Store the gradient of raw query or key rows, given that of the rotated ones, (block, 2 · half_width)."""
    width: tl.constexpr = 2 * half_width
    stride = 3 * heads * width
    offset = (part * heads + tl.program_id(1)) * width
    d_first, d_second = tl.split(tl.permute(tl.reshape(d_rotated, (block, 2, half_width)), (0, 2, 1)))
    c, s = load_rotation(cosine, sine, rows % row_length, valid, half_width)
    first, second, scale = load_normalised(qkv + offset, rows, valid, stride, half_width, epsilon)
    g_first, g_second = d_first * c + d_second * s, d_second * c - d_first * s
    projection = (tl.sum(g_first * first, 1) + tl.sum(g_second * second, 1)) / width
    d_first = scale[:, None] * (g_first - first * projection[:, None])
    d_second = scale[:, None] * (g_second - second * projection[:, None])
    pointers = d_qkv + offset + rows[:, None] * stride + tl.arange(0, half_width)[None, :]
    dtype = qkv.dtype.element_ty
    tl.store(pointers, d_first.to(dtype), mask=valid[:, None])
    tl.store(pointers + half_width, d_second.to(dtype), mask=valid[:, None])


@triton.jit
def forward_kernel(
    rotated, key_tiles, value_tiles, begins, out, log_sums, token_count, heads,
    half_width: tl.constexpr, block: tl.constexpr, keys_block: tl.constexpr,
):  # fmt: skip
    """out: (B, T, H, D); log_sums: (H, B·T), log2 of each row's sum of exponentials."""
    width: tl.constexpr = 2 * half_width
    head = tl.program_id(1)
    rows = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, width)
    valid = rows < token_count
    begin = tl.load(begins + rows, mask=valid, other=token_count)
    q_base = rotated + head * token_count * width
    q = tl.load(q_base + rows[:, None] * width + column[None, :], mask=valid[:, None], other=0.0)
    mixed = tl.zeros((block, width), dtype=tl.float32)
    total = tl.zeros((block,), dtype=tl.float32)
    for start in range(
        tl.min(begin, 0) // keys_block * keys_block, (tl.program_id(0) + 1) * block, keys_block
    ):
        keys = start + tl.arange(0, keys_block)
        k = key_tiles.load([(heads + head) * token_count + start, 0])
        v = value_tiles.load([start, (2 * heads + head) * width])
        visible = (keys[None, :] <= rows[:, None]) & (keys[None, :] >= begin[:, None])
        weights = tl.where(visible, tl.exp2(tl.dot(q, tl.trans(k))), 0.0)
        total += tl.sum(weights, 1)
        mixed += tl.dot(weights.to(q.dtype), v)
    total = tl.where(valid, total, 1.0)
    pointers = out + (rows[:, None] * heads + head) * width + column[None, :]
    tl.store(pointers, (mixed / total[:, None]).to(q.dtype), mask=valid[:, None])
    tl.store(log_sums + head * token_count + rows, tl.log2(total), mask=valid)


@triton.jit
def query_gradient_kernel(
    qkv, rotated, cosine, sine, begins, out, log_sums, d_out, d_qkv, deltas, token_count, row_length, heads, scale, epsilon,
    half_width: tl.constexpr, block: tl.constexpr, keys_block: tl.constexpr,
):  # fmt: skip
    """Writes the queries' part of d_qkv, and deltas (H, B·T), each row's sum of d_out · out, for `key_gradient_kernel`."""
    width: tl.constexpr = 2 * half_width
    head, stride = tl.program_id(1), 3 * heads * width
    rows = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, width)
    valid = rows < token_count
    begin = tl.load(begins + rows, mask=valid, other=token_count)
    q_base, k_base = rotated + head * token_count * width, rotated + (heads + head) * token_count * width
    v_base = qkv + (2 * heads + head) * width
    q = tl.load(q_base + rows[:, None] * width + column[None, :], mask=valid[:, None], other=0.0)
    offsets = (rows[:, None] * heads + head) * width + column[None, :]
    d_mixed = tl.load(d_out + offsets, mask=valid[:, None], other=0.0)
    mixed = tl.load(out + offsets, mask=valid[:, None], other=0.0)
    delta = tl.sum(d_mixed.to(tl.float32) * mixed.to(tl.float32), 1)
    tl.store(deltas + head * token_count + rows, delta, mask=valid)
    log_sum = tl.load(log_sums + head * token_count + rows, mask=valid, other=0.0)
    d_q = tl.zeros((block, width), dtype=tl.float32)
    for start in range(
        tl.min(begin, 0) // keys_block * keys_block, (tl.program_id(0) + 1) * block, keys_block
    ):
        keys = start + tl.arange(0, keys_block)
        valid_keys = keys < token_count
        k = tl.load(k_base + keys[:, None] * width + column[None, :], mask=valid_keys[:, None], other=0.0)
        v = tl.load(v_base + keys[:, None] * stride + column[None, :], mask=valid_keys[:, None], other=0.0)
        visible = (keys[None, :] <= rows[:, None]) & (keys[None, :] >= begin[:, None])
        weights = tl.where(visible, tl.exp2(tl.dot(q, tl.trans(k)) - log_sum[:, None]), 0.0)
        d_scores = weights * (tl.dot(d_mixed, tl.trans(v)) - delta[:, None])
        d_q += tl.dot(d_scores.to(q.dtype), k)
    store_raw_gradient(
        qkv, d_qkv, 0, d_q * scale, cosine, sine, rows, valid, row_length, heads, epsilon, half_width, block
    )


@triton.jit
def key_gradient_kernel(
    qkv, rotated, cosine, sine, ends, log_sums, d_out, d_qkv, deltas, token_count, row_length, heads, epsilon,
    half_width: tl.constexpr, block: tl.constexpr, queries_block: tl.constexpr,
):  # fmt: skip
    """Writes the keys' and the values' part of d_qkv."""
    width: tl.constexpr = 2 * half_width
    head, stride = tl.program_id(1), 3 * heads * width
    keys = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, width)
    valid = keys < token_count
    end = tl.load(ends + keys, mask=valid, other=0)
    q_base, k_base = rotated + head * token_count * width, rotated + (heads + head) * token_count * width
    v_offsets = (2 * heads + head) * width + keys[:, None] * stride + column[None, :]
    k = tl.load(k_base + keys[:, None] * width + column[None, :], mask=valid[:, None], other=0.0)
    v = tl.load(qkv + v_offsets, mask=valid[:, None], other=0.0)
    d_k = tl.zeros((block, width), dtype=tl.float32)
    d_v = tl.zeros((block, width), dtype=tl.float32)
    for start in range(
        tl.program_id(0) * block // queries_block * queries_block, tl.max(end, 0), queries_block
    ):
        rows = start + tl.arange(0, queries_block)
        valid_rows = rows < token_count
        q = tl.load(q_base + rows[:, None] * width + column[None, :], mask=valid_rows[:, None], other=0.0)
        offsets = (rows[:, None] * heads + head) * width + column[None, :]
        d_mixed = tl.load(d_out + offsets, mask=valid_rows[:, None], other=0.0)
        log_sum = tl.load(log_sums + head * token_count + rows, mask=valid_rows, other=0.0)
        delta = tl.load(deltas + head * token_count + rows, mask=valid_rows, other=0.0)
        visible = (keys[:, None] <= rows[None, :]) & (rows[None, :] < end[:, None])
        weights = tl.where(visible, tl.exp2(tl.dot(k, tl.trans(q)) - log_sum[None, :]), 0.0)
        d_v += tl.dot(weights.to(k.dtype), d_mixed)
        d_scores = weights * (tl.dot(v, tl.trans(d_mixed)) - delta[None, :])
        d_k += tl.dot(d_scores.to(k.dtype), q)
    tl.store(d_qkv + v_offsets, d_v.to(k.dtype), mask=valid[:, None])
    # The rotated queries are multiplied by scale · log2(e), the gradient needs scale alone: times ln(2).
    ln_2 = 0.6931471805599453
    store_raw_gradient(
        qkv, d_qkv, 1, d_k * ln_2, cosine, sine, keys, valid, row_length, heads, epsilon, half_width, block
    )


@torch.library.custom_op("smalltale::document_attention", mutates_args=())
def document_attention(
    qkv: Tensor, cosine: Tensor, sine: Tensor, spans: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv: (B, T, 3, H, D), raw; cosine, sine: (T, D / 2) float32; spans: (2, B·T) int32, begin and end of each token's document.

    Returns the attention output (B, T, H, D) and, for the backward pass, (H, B·T) float32 and (2, H, B·T, D).
    """
    B, T, _, H, D = qkv.shape
    token_count, half_width = B * T, D // 2
    out = torch.empty(B, T, H, D, dtype=qkv.dtype, device=qkv.device)
    log_sums = torch.empty(H, token_count, device=qkv.device)
    rotated = torch.empty(2, H, token_count, D, dtype=qkv.dtype, device=qkv.device)
    query_scale = 1 / (math.sqrt(D) * math.log(2))
    rotate_kernel[(triton.cdiv(token_count, 32), H)](
        qkv, cosine, sine, rotated, token_count, T, H, query_scale, epsilon, half_width=half_width, block=32
    )
    key_tiles = tile_descriptor(rotated.view(-1, D), FORWARD.inner_block, D)
    value_tiles = tile_descriptor(qkv.view(token_count, -1), FORWARD.inner_block, D)
    forward_kernel[(triton.cdiv(token_count, FORWARD.block), H)](
        rotated, key_tiles, value_tiles, spans[0], out, log_sums, token_count, H,
        half_width=half_width, keys_block=FORWARD.inner_block, **FORWARD.options(),
    )  # fmt: skip
    return out, log_sums, rotated


@document_attention.register_fake
def _(qkv: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    B, T, _, H, D = qkv.shape
    log_sums = qkv.new_empty(H, B * T, dtype=torch.float32)
    return qkv.new_empty(B, T, H, D), log_sums, qkv.new_empty(2, H, B * T, D)


@torch.library.custom_op("smalltale::document_attention_backward", mutates_args=())
def document_attention_backward(
    d_out: Tensor, qkv: Tensor, cosine: Tensor, sine: Tensor, spans: Tensor, out: Tensor, log_sums: Tensor, rotated: Tensor,
    epsilon: float,
) -> Tensor:  # fmt: skip
    """The gradient of qkv, with its shape."""
    B, T, _, H, D = qkv.shape
    token_count, half_width = B * T, D // 2
    d_qkv, deltas, d_out = torch.empty_like(qkv), torch.empty_like(log_sums), d_out.contiguous()
    query_gradient_kernel[(triton.cdiv(token_count, QUERY_GRADIENT.block), H)](
        qkv, rotated, cosine, sine, spans[0], out, log_sums, d_out, d_qkv, deltas, token_count, T, H, 1 / math.sqrt(D),
        epsilon, half_width=half_width, keys_block=QUERY_GRADIENT.inner_block, **QUERY_GRADIENT.options(),
    )  # fmt: skip
    key_gradient_kernel[(triton.cdiv(token_count, KEY_GRADIENT.block), H)](
        qkv, rotated, cosine, sine, spans[1], log_sums, d_out, d_qkv, deltas, token_count, T, H,
        epsilon, half_width=half_width, queries_block=KEY_GRADIENT.inner_block, **KEY_GRADIENT.options(),
    )  # fmt: skip
    return d_qkv


@document_attention_backward.register_fake
def _(d_out: Tensor, qkv: Tensor, *inputs: Any) -> Tensor:
    return torch.empty_like(qkv)


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    qkv, cosine, sine, spans, ctx.epsilon = inputs
    ctx.save_for_backward(qkv, cosine, sine, spans, *output)


def backward(ctx: Any, d_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    d_qkv = document_attention_backward(d_out, *ctx.saved_tensors, ctx.epsilon)
    return d_qkv, None, None, None, None


document_attention.register_autograd(backward, setup_context=save_for_backward)
