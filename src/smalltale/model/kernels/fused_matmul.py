"""Matrix products with what follows them done before they are written, on a Hopper GPU: a step has nothing to win in
the products themselves, but reading and writing their results once more takes a fifth of its time.

In: rows (M, K) and weights in bfloat16. Out: (M, N) in bfloat16.
Beware: a GPU works on one tile of the result after another, and half a tile at a time leaves room for two programs
on a multiprocessor; while one writes, the other multiplies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

TILE, DEPTH, WARPS, STAGES, PROGRAMS = 128, 64, 4, 3, 2
"""Rows and columns of a tile, inner width loaded at once, warps, loads ahead, programs on a multiprocessor: the fastest of
sixteen choices on an H100 (2026-11-26)."""


@triton.jit
def halves(whole, rows: tl.constexpr, half: tl.constexpr):
    """(rows, 2 · half) -> its left and its right half."""
    return tl.split(tl.permute(tl.reshape(whole, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def tile_of_product(
    x, weight, row, column, depth, turned: tl.constexpr, tile: tl.constexpr, inner: tl.constexpr
):
    """A tile of x · weight, or where the weight is `turned` of x · weightᵀ, in float32."""
    total = tl.zeros((tile, tile), dtype=tl.float32)
    for k in range(0, depth, inner):
        if turned:
            total = tl.dot(x.load([row, k]), weight.load([column, k]).T, total)
        else:
            total = tl.dot(x.load([row, k]), weight.load([k, column]), total)
    return total


@triton.jit
def squared_kernel(x, weight, out, count, columns, depth, programs, tile: tl.constexpr, inner: tl.constexpr):
    """out = max(x · weightᵀ, 0)²."""
    half: tl.constexpr = tile // 2
    across = tl.cdiv(columns, tile)
    for number in tl.range(tl.program_id(0), tl.cdiv(count, tile) * across, programs, flatten=True):
        row, column = number // across * tile, number % across * tile
        total = tile_of_product(x, weight, row, column, depth, True, tile, inner)
        left, right = halves(tl.maximum(total, 0.0), tile, half)
        out.store([row, column], (left * left).to(out.dtype))
        out.store([row, column + half], (right * right).to(out.dtype))


@triton.jit
def rooted_kernel(
    x, weight, square, out, count, columns, depth, programs, tile: tl.constexpr, inner: tl.constexpr
):
    """out = 2 · sqrt(square) · (x · weight)."""
    half: tl.constexpr = tile // 2
    across = tl.cdiv(columns, tile)
    for number in tl.range(tl.program_id(0), tl.cdiv(count, tile) * across, programs):
        row, column = number // across * tile, number % across * tile
        total = tile_of_product(x, weight, row, column, depth, False, tile, inner)
        left, right = halves(2.0 * total, tile, half)
        left *= tl.sqrt(square.load([row, column]).to(tl.float32))
        out.store([row, column], left.to(out.dtype))
        right *= tl.sqrt(square.load([row, column + half]).to(tl.float32))
        out.store([row, column + half], right.to(out.dtype))


@triton.jit
def capped_exponential(logits, column, columns, slant, half: tl.constexpr):
    """exp of capped logits, 0 past the last column, and that times the cube of the cap's slope."""
    slope = tl.rsqrt(1.0 + (logits * slant) * (logits * slant))
    exponential = tl.exp2(logits * slope * 1.4426950408889634)
    inside = column + tl.arange(0, half) < columns
    return tl.where(inside[None, :], exponential, 0.0), exponential * slope * slope * slope


@triton.jit
def exponential_kernel(
    x, weight, out, sums, count, columns, depth, slant, programs, tile: tl.constexpr, inner: tl.constexpr
):
    """out = d exp(cap(logits)) / d logits, and the sums of exp(cap(logits)) over each half tile."""
    half: tl.constexpr = tile // 2
    across = tl.cdiv(columns, tile)
    for number in tl.range(tl.program_id(0), tl.cdiv(count, tile) * across, programs, flatten=True):
        row, column = number // across * tile, number % across * tile
        total = tile_of_product(x, weight, row, column, depth, True, tile, inner)
        rows = row + tl.arange(0, tile)
        left, right = halves(total, tile, half)
        exponential, gradient = capped_exponential(left, column, columns, slant, half)
        tl.store(sums + 2 * (number % across) * count + rows, tl.sum(exponential, 1), mask=rows < count)
        out.store([row, column], gradient.to(out.dtype))
        exponential, gradient = capped_exponential(right, column + half, columns, slant, half)
        tl.store(sums + (2 * (number % across) + 1) * count + rows, tl.sum(exponential, 1), mask=rows < count)
        out.store([row, column + half], gradient.to(out.dtype))


def tiled(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, [rows, columns])


def programs_for(out: Tensor) -> int:
    """Programs that share the tiles of `out`."""
    tiles: int = triton.cdiv(out.shape[0], TILE) * triton.cdiv(out.shape[1], TILE)
    return min(tiles, PROGRAMS * torch.cuda.get_device_properties(out.device).multi_processor_count)


LAUNCH = {"tile": TILE, "inner": DEPTH, "num_warps": WARPS, "num_stages": STAGES}


@torch.library.custom_op("smalltale::squared_product", mutates_args=())
def squared_product(x: Tensor, weight: Tensor) -> Tensor:
    """max(x weightᵀ, 0)²; x: (M, K), weight: (N, K). Returns (M, N)."""
    (M, K), N = x.shape, weight.shape[0]
    out = x.new_empty(M, N)
    programs = programs_for(out)
    squared_kernel[(programs,)](
        tiled(x, TILE, DEPTH), tiled(weight, TILE, DEPTH), tiled(out, TILE, TILE // 2), M, N, K, programs, **LAUNCH
    )  # fmt: skip
    return out


@squared_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("smalltale::rooted_product", mutates_args=())
def rooted_product(x: Tensor, weight: Tensor, square: Tensor) -> Tensor:
    """2 sqrt(square) (x weight), the gradient before a squared ReLU; x: (M, K), weight: (K, N), square: (M, N)."""
    (M, K), N = x.shape, weight.shape[1]
    out = torch.empty_like(square)
    programs = programs_for(out)
    rooted_kernel[(programs,)](
        tiled(x, TILE, DEPTH), tiled(weight, DEPTH, TILE), tiled(square, TILE, TILE // 2),
        tiled(out, TILE, TILE // 2), M, N, K, programs, **LAUNCH,
    )  # fmt: skip
    return out


@rooted_product.register_fake
def _(x: Tensor, weight: Tensor, square: Tensor) -> Tensor:
    return torch.empty_like(square)


def exponential_product(x: Tensor, weight: Tensor, cap: float, out: Tensor) -> Tensor:
    """The exponentials of soft-capped logits x weightᵀ; x: (M, K), weight: (V, K); 0 < cap < 60.

    Writes exp(capped) · d capped / d logit to `out` (M, V). Returns the rows' sums of exp(capped), (M,) in float32.
    """
    (M, K), V = x.shape, weight.shape[0]
    sums = x.new_empty(2 * triton.cdiv(V, TILE), M, dtype=torch.float32)
    programs = programs_for(out)
    exponential_kernel[(programs,)](
        tiled(x, TILE, DEPTH), tiled(weight, TILE, DEPTH), tiled(out, TILE, TILE // 2), sums, M, V, K, 1 / cap,
        programs, **LAUNCH,
    )  # fmt: skip
    return sums.sum(0)


class FeedForwardProducts(torch.autograd.Function):
    """down · max(up · x, 0)², both products and the square between them; x: (M, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        square: Tensor = squared_product(x, up)
        ctx.save_for_backward(x, up, down, square)
        return square @ down.t()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, up, down, square = ctx.saved_tensors
        given = upstream[0].contiguous()
        before = rooted_product(given, down, square)
        return before @ up, before.t() @ x, given.t() @ square
