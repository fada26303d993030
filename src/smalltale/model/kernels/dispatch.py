"""Which of our GPU kernels a device has; they are in Triton, which comes with torch's builds for GPUs alone."""

from __future__ import annotations

import torch

try:
    from smalltale.model.kernels.document_attention import HEAD_WIDTHS, story_attention
    from smalltale.model.kernels.fused_matmul import FeedForwardProducts, exponential_product
except ImportError:
    HEAD_WIDTHS = set()
    story_attention = FeedForwardProducts = exponential_product = None  # type: ignore[assignment,misc]

__all__ = [
    "FeedForwardProducts",
    "exponential_product",
    "has_fused_products",
    "has_story_attention",
    "story_attention",
]


def has_story_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether this device has `story_attention`, for this type and width of heads."""
    if story_attention is None or device.type != "cuda" or dtype not in {torch.bfloat16, torch.float16}:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8 and head_width in HEAD_WIDTHS


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_fused_products(device: torch.device, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether this device has `FeedForwardProducts` and `exponential_product` for matrices of these sizes.

    They are written for Hopper, whose copies by descriptor ask for rows of a multiple of 16 bytes.
    """
    if exponential_product is None or device.type != "cuda" or dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device)[0] == 9 and not any(size % 8 for size in sizes)
