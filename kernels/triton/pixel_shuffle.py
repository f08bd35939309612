# SPDX-License-Identifier: Apache-2.0
"""pixel_shuffle   y[c, s i + a, s j + b] = x[c s s + a s + b, i, j]

shapes   x [N, h, w, C s s]   y [N, s h, s w, C]
work     one program = BLOCK numbers of one row of y, written in order; reads of s rows' columns come from L2
cost     no arithmetic; HBM reads and writes C numbers an output pixel. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .common import empty, out_dtype, pixels_last, refuse_dtype

BLOCK = 1024


@triton.jit
def shuffle(x_ptr, y_ptr, h, w, C: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(2).to(tl.int64)
    y = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    c = i % C
    x = i // C
    read = (n * h + y // S) * w * (C * S * S) + (x // S) * (C * S * S) + c * S * S + (y % S) * S + x % S
    v = tl.load(x_ptr + read, mask=x < w * S, other=0.0)
    row = (n * h * S + y) * w * (S * C)
    tl.store(y_ptr + row + i, v.to(y_ptr.dtype.element_ty), mask=x < w * S)


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor], params: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> torch.dtype:
    return dtype


def launch(
    packed: torch.dtype,
    x: torch.Tensor,  # [N, C s s, h, w]
    *,
    scale: int,
) -> torch.Tensor:  # [N, C, s h, s w]
    x = pixels_last(x)
    n, k, h, w = x.shape
    c = k // scale**2
    out = empty(n, c, h * scale, w * scale, out_dtype(c, packed), x.device)
    shuffle[(h * scale, triton.cdiv(w * scale * c, BLOCK), n)](x, out, h, w, c, scale, BLOCK)
    return out


def candidates(packed: Any, device: torch.device) -> tuple[()]:
    """There is one configuration."""
    return ()


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
