"""Matmuls for Hopper GPUs that apply an elementwise operation before they store their result.

Input: rows (M, K) and weights in bfloat16. Output: (M, N) in bfloat16. The fused operations are squared ReLU, its gradient,
and exp of soft-capped logits; as separate kernels, writing and reading matmul results once more takes a fifth of a training
step. A tile of the result is stored half at a time, so that two programs fit on a multiprocessor: one stores while the other
multiplies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

TILE, DEPTH, WARPS, STAGES, PROGRAMS = 128, 64, 4, 3, 2
"""Rows and columns of a tile, part of K per load, warps, depth of the load pipeline, programs per multiprocessor: the
fastest of sixteen choices on an H100 (2026-11-26)."""


@triton.jit
def split_columns(tile, rows: tl.constexpr, half: tl.constexpr):
    """(rows, 2 · half) -> its left and its right half."""
    return tl.split(tl.permute(tl.reshape(tile, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def matmul_tile(
    x, weight, row, column, depth, transposed: tl.constexpr, tile: tl.constexpr, inner: tl.constexpr
):
    """A tile of x · weight, or of x · weightᵀ if `transposed`, in float32."""
    total = tl.zeros((tile, tile), dtype=tl.float32)
    for k in range(0, depth, inner):
        if transposed:
            total = tl.dot(x.load([row, k]), weight.load([column, k]).T, total)
        else:
            total = tl.dot(x.load([row, k]), weight.load([k, column]), total)
    return total


@triton.jit
def squared_relu_kernel(
    x, weight, out, row_count, columns, depth, programs, tile: tl.constexpr, inner: tl.constexpr
):
    """out = max(x · weightᵀ, 0)²."""
    half: tl.constexpr = tile // 2
    tile_columns = tl.cdiv(columns, tile)
    for index in tl.range(tl.program_id(0), tl.cdiv(row_count, tile) * tile_columns, programs, flatten=True):
        row, column = index // tile_columns * tile, index % tile_columns * tile
        total = matmul_tile(x, weight, row, column, depth, True, tile, inner)
        left, right = split_columns(tl.maximum(total, 0.0), tile, half)
        out.store([row, column], (left * left).to(out.dtype))
        out.store([row, column + half], (right * right).to(out.dtype))


@triton.jit
def squared_relu_backward_kernel(
    x, weight, square, out, row_count, columns, depth, programs, tile: tl.constexpr, inner: tl.constexpr
):
    """out = 2 · sqrt(square) · (x · weight)."""
    half: tl.constexpr = tile // 2
    tile_columns = tl.cdiv(columns, tile)
    for index in tl.range(tl.program_id(0), tl.cdiv(row_count, tile) * tile_columns, programs):
        row, column = index // tile_columns * tile, index % tile_columns * tile
        total = matmul_tile(x, weight, row, column, depth, False, tile, inner)
        left, right = split_columns(2.0 * total, tile, half)
        left *= tl.sqrt(square.load([row, column]).to(tl.float32))
        out.store([row, column], left.to(out.dtype))
        right *= tl.sqrt(square.load([row, column + half]).to(tl.float32))
        out.store([row, column + half], right.to(out.dtype))


@triton.jit
def softcap_exp(logits, column, columns, inverse_cap, half: tl.constexpr):
    """exp of soft-capped logits, 0 past the last column, and its derivative: exp times the cube of the cap's slope."""
    slope = tl.rsqrt(1.0 + (logits * inverse_cap) * (logits * inverse_cap))
    exponential = tl.exp2(logits * slope * 1.4426950408889634)
    inside = column + tl.arange(0, half) < columns
    return tl.where(inside[None, :], exponential, 0.0), exponential * slope * slope * slope


@triton.jit
def softcap_exp_kernel(
    x, weight, out, sums, row_count, columns, depth, inverse_cap, programs, tile: tl.constexpr, inner: tl.constexpr
):  # fmt: skip
    """out = d exp(cap(logits)) / d logits, and the sums of exp(cap(logits)) over each half tile."""
    half: tl.constexpr = tile // 2
    tile_columns = tl.cdiv(columns, tile)
    for index in tl.range(tl.program_id(0), tl.cdiv(row_count, tile) * tile_columns, programs, flatten=True):
        row, column = index // tile_columns * tile, index % tile_columns * tile
        total = matmul_tile(x, weight, row, column, depth, True, tile, inner)
        rows = row + tl.arange(0, tile)
        left, right = split_columns(total, tile, half)
        left_sums = sums + 2 * (index % tile_columns) * row_count + rows
        exponential, gradient = softcap_exp(left, column, columns, inverse_cap, half)
        tl.store(left_sums, tl.sum(exponential, 1), mask=rows < row_count)
        out.store([row, column], gradient.to(out.dtype))
        exponential, gradient = softcap_exp(right, column + half, columns, inverse_cap, half)
        tl.store(left_sums + row_count, tl.sum(exponential, 1), mask=rows < row_count)
        out.store([row, column + half], gradient.to(out.dtype))


def tile_descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, [rows, columns])


def program_count(out: Tensor) -> int:
    """How many programs share the tiles of `out`."""
    tiles: int = triton.cdiv(out.shape[0], TILE) * triton.cdiv(out.shape[1], TILE)
    return min(tiles, PROGRAMS * torch.cuda.get_device_properties(out.device).multi_processor_count)


LAUNCH_OPTIONS = {"tile": TILE, "inner": DEPTH, "num_warps": WARPS, "num_stages": STAGES}


@torch.library.custom_op("smalltale::matmul_squared_relu", mutates_args=())
def matmul_squared_relu(x: Tensor, weight: Tensor) -> Tensor:
    """max(x weightᵀ, 0)²; x: (M, K), weight: (N, K). Returns (M, N)."""
    (M, K), N = x.shape, weight.shape[0]
    out = x.new_empty(M, N)
    programs = program_count(out)
    squared_relu_kernel[(programs,)](
        tile_descriptor(x, TILE, DEPTH), tile_descriptor(weight, TILE, DEPTH), tile_descriptor(out, TILE, TILE // 2),
        M, N, K, programs, **LAUNCH_OPTIONS,
    )  # fmt: skip
    return out


@matmul_squared_relu.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("smalltale::matmul_squared_relu_backward", mutates_args=())
def matmul_squared_relu_backward(x: Tensor, weight: Tensor, square: Tensor) -> Tensor:
    """2 sqrt(square) (x weight), the gradient before a squared ReLU; x: (M, K), weight: (K, N), square: (M, N)."""
    (M, K), N = x.shape, weight.shape[1]
    out = torch.empty_like(square)
    programs = program_count(out)
    squared_relu_backward_kernel[(programs,)](
        tile_descriptor(x, TILE, DEPTH), tile_descriptor(weight, DEPTH, TILE), tile_descriptor(square, TILE, TILE // 2),
        tile_descriptor(out, TILE, TILE // 2), M, N, K, programs, **LAUNCH_OPTIONS,
    )  # fmt: skip
    return out


@matmul_squared_relu_backward.register_fake
def _(x: Tensor, weight: Tensor, square: Tensor) -> Tensor:
    return torch.empty_like(square)


def matmul_softcap_exp(x: Tensor, weight: Tensor, cap: float, out: Tensor) -> Tensor:
    """exp of the soft-capped logits x weightᵀ; x: (M, K), weight: (V, K); 0 < cap < 60.

    Writes exp(capped) · d capped / d logit to `out` (M, V). Returns each row's sum of exp(capped), (M,) in float32.
    """
    (M, K), V = x.shape, weight.shape[0]
    sums = x.new_empty(2 * triton.cdiv(V, TILE), M, dtype=torch.float32)
    programs = program_count(out)
    softcap_exp_kernel[(programs,)](
        tile_descriptor(x, TILE, DEPTH), tile_descriptor(weight, TILE, DEPTH), tile_descriptor(out, TILE, TILE // 2),
        sums, M, V, K, 1 / cap, programs, **LAUNCH_OPTIONS,
    )  # fmt: skip
    return sums.sum(0)


class FusedFeedForward(torch.autograd.Function):
    """down · max(up · x, 0)² with the squared ReLU fused into the first matmul; x: (M, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        square: Tensor = matmul_squared_relu(x, up)
        ctx.save_for_backward(x, up, down, square)
        return square @ down.t()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, up, down, square = ctx.saved_tensors
        d_out = upstream[0].contiguous()
        d_hidden = matmul_squared_relu_backward(d_out, down, square)
        return d_hidden @ up, d_hidden.t() @ x, d_out.t() @ square
