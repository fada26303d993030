"""Imports the GPU kernels if Triton is installed (only torch's GPU builds bring it), and says which devices run them."""

from __future__ import annotations

import torch

try:
    from smalltale.model.kernels.document_attention import HEAD_WIDTHS, document_attention
    from smalltale.model.kernels.fused_matmul import FusedFeedForward, matmul_softcap_exp
except ImportError:
    HEAD_WIDTHS = set()
    document_attention = FusedFeedForward = matmul_softcap_exp = None  # type: ignore[assignment,misc]

__all__ = [
    "FusedFeedForward",
    "document_attention",
    "has_document_attention",
    "has_fused_matmul",
    "matmul_softcap_exp",
]


def has_document_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether `document_attention` runs on this device, with this type and head width."""
    if document_attention is None or device.type != "cuda" or dtype not in {torch.bfloat16, torch.float16}:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8 and head_width in HEAD_WIDTHS


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_fused_matmul(device: torch.device, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether `FusedFeedForward` and `matmul_softcap_exp` run on this device, for matrices of these sizes.

    They are written for Hopper; its tensor descriptors need rows of a multiple of 16 bytes.
    """
    if matmul_softcap_exp is None or device.type != "cuda" or dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device)[0] == 9 and not any(size % 8 for size in sizes)
