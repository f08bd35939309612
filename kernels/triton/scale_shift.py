# SPDX-License-Identifier: Apache-2.0
"""scale_shift   y = scale x + shift, per channel

shapes   x, y [N, C, H, W]   scale, shift [C] fp32
work     one program = BLOCK numbers in the order of memory
cost     2 FLOP, 1 read and 1 write a number: bound by HBM. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from .common import empty, out_dtype, pixels_last, refuse_dtype

BLOCK = 1024


@triton.jit
def affine(x_ptr, scale_ptr, shift_ptr, y_ptr, total, C: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = (i % C).to(tl.int32)
    v = tl.load(x_ptr + i, mask=i < total, other=0.0).to(tl.float32)
    if SCALE:
        v *= tl.load(scale_ptr + c)
    v += tl.load(shift_ptr + c)
    tl.store(y_ptr + i, v.to(y_ptr.dtype.element_ty), mask=i < total)


@dataclass(frozen=True)
class Packed:
    scale: torch.Tensor | None  # [C] fp32
    shift: torch.Tensor
    dtype: torch.dtype


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor],  # shift [C], scale [C] or none
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    made = {role: value.to(device).float().contiguous() for role, value in weights.items()}
    return Packed(made.get("scale"), made["shift"], out_dtype(made["shift"].numel(), dtype))


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, C, H, W]
) -> torch.Tensor:  # [N, C, H, W]
    x = pixels_last(x)
    n, c, h, w = x.shape
    out = empty(n, c, h, w, packed.dtype, x.device)
    affine[(triton.cdiv(x.numel(), BLOCK),)](
        x, packed.scale, packed.shift, out, x.numel(), c, packed.scale is not None, BLOCK
    )
    return out


def candidates(packed: Packed, device: torch.device) -> tuple[()]:
    """There is one configuration."""
    return ()


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
