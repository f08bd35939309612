# SPDX-License-Identifier: Apache-2.0
"""resize_bicubic   out = A x B', A and B of the cubic kernel with a = -0.5 and symmetric border (MATLAB's imresize)

shapes   x [N, C, h, w] of any strides   out [N, s h, s w, C] fp32 (C <= 4)   taps [s, 4] fp32, one row a phase
work     one program = ROWS x BLOCK numbers of out; 16 reads of x each, most of them from L1
cost     40 FLOP a number; HBM reads 1 / s s and writes 1 number each: bound by writing. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from .common import border_index, empty, out_dtype, refuse_dtype

ROWS, BLOCK = 8, 128


@triton.jit
def sample(
    plane, taps_ptr, y, x, h, w, sh, sw, stored, S: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """[ROWS, BLOCK] numbers at (y, x) of the enlarged image; `plane` [ROWS, BLOCK]: where the channel of each begins."""
    # The first of four taps: floor((o + 1/2) / s - 1/2) - 1.
    y0 = (2 * y + 1 + S) // (2 * S) - 2
    x0 = (2 * x + 1 + S) // (2 * S) - 2
    out = tl.zeros((ROWS, BLOCK), tl.float32)
    for j in tl.static_range(4):
        row = border_index(y0 + j, h, 2).to(tl.int64) * sh
        along = tl.zeros((ROWS, BLOCK), tl.float32)
        for k in tl.static_range(4):
            v = tl.load(plane + row + border_index(x0 + k, w, 2).to(tl.int64) * sw, mask=stored, other=0.0)
            along += v.to(tl.float32) * tl.load(taps_ptr + (x % S) * 4 + k)
        out += along * tl.load(taps_ptr + (y % S) * 4 + j)
    return out


@triton.jit
def bicubic(
    x_ptr, taps_ptr, y_ptr, h, w, sn, sc, sh, sw,
    C: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    y = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    i = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    stored = (y < h * S) & (i < w * S * C)
    x = i // C
    plane = x_ptr + n * sn + (i % C).to(tl.int64) * sc
    out = sample(plane, taps_ptr, y, x, h, w, sh, sw, stored, S, ROWS, BLOCK)
    tl.store(y_ptr + (n * h * S + y) * w * (S * C) + i, out.to(y_ptr.dtype.element_ty), mask=stored)


@dataclass(frozen=True)
class Packed:
    taps: torch.Tensor  # [s, 4] fp32
    dtype: torch.dtype


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    return refuse_dtype(dtype)


def cubic(x: float) -> float:
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def pack(
    weights: Mapping[str, torch.Tensor], params: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> Packed:
    s = int(params["scale"])
    taps = torch.zeros(s, 4, dtype=torch.float64)
    for phase in range(s):
        u = (phase + 0.5) / s - 0.5
        first = (2 * phase + 1 + s) // (2 * s) - 2
        taps[phase] = torch.tensor([cubic(u - first - k) for k in range(4)], dtype=torch.float64)
    return Packed((taps / taps.sum(1, keepdim=True)).float().to(device), dtype)


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, C, h, w]
    *,
    scale: int,
) -> torch.Tensor:  # [N, C, s h, s w]
    n, c, h, w = x.shape
    out = empty(n, c, h * scale, w * scale, out_dtype(c, packed.dtype), x.device)
    grid = (triton.cdiv(h * scale, ROWS), triton.cdiv(w * scale * c, BLOCK), n)
    bicubic[grid](x, packed.taps, out, h, w, *x.stride(), c, scale, ROWS, BLOCK)
    return out


def candidates(packed: Packed, device: torch.device) -> tuple[()]:
    """There is one configuration."""
    return ()


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
