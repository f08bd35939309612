# SPDX-License-Identifier: Apache-2.0
"""conv_image   y = act2(W2 act(w * x + b) + b2), or without W2   k x k on an image of up to 4 channels, for conv2d

shapes   x [N, H + k - 1, W + k - 1, Ci] with its border   w [k k Ci up to 16 or a multiple of 32, C1']
         W2 [C1', C2'] or none   y [N, H, W, C]
work     one program = rows x columns pixels: [pixels, 32] . [32, C1'] until k k Ci is reached, then, if there is W2, one
         product [pixels, C1'] . [C1', C2'] of what never left the registers (SRCNN 9-1-5: the 64 maps)
cost     2 C1 (k k Ci + C2) FLOP a pixel; HBM reads Ci + writes C numbers a pixel; 9 x 9 on Y: 96 loads a pixel from L1.
         Not measured on a GPU.

`padded` copies the image with its border once, so that the inner loop's address is one sum. Half precisions multiply
the image in fp16: in bf16 values near 1 would lose half a level of 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from .common import (
    ACTIVATIONS,
    BORDERS,
    Config,
    act,
    as_bias,
    border_index,
    dot_precision,
    empty,
    ended,
    how_residual,
    out_dtype,
    up,
)


@triton.jit
def pad_border(
    x_ptr, y_ptr, H, W, sn, sc, sh, sw, r,
    C: tl.constexpr, BORDER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y [N, H + 2r, W + 2r, C] = x of any strides with its border; one program = ROWS x BLOCK pixels."""
    y = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    x = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    width = W + 2 * r
    n = tl.program_id(2).to(tl.int64)
    sy = border_index(y - r, H, BORDER).to(tl.int64)
    sx = border_index(x - r, W, BORDER)
    stored = (y < H + 2 * r) & (x < width)
    inside = stored & (sy >= 0) & (sy < H) & (sx >= 0) & (sx < W)
    row = (n * (H + 2 * r) + y) * width * C
    for c in tl.static_range(C):
        channel = n * 0 + c  # in 64 bits
        v = tl.load(x_ptr + n * sn + channel * sc + sy * sh + sx * sw, mask=inside, other=0.0)
        tl.store(y_ptr + row + x * C + c, v.to(y_ptr.dtype.element_ty), mask=stored)


def padded(
    x: torch.Tensor,  # [N, C, H, W], C <= 4
    r: int,
    border: str,
    dtype: torch.dtype,
) -> torch.Tensor:  # [N, H + 2r, W + 2r, C]
    n, c, h, w = x.shape
    out = torch.empty((n, h + 2 * r, w + 2 * r, c), dtype=dtype, device=x.device)
    rows, block = 8, 128
    grid = (triton.cdiv(h + 2 * r, rows), triton.cdiv(w + 2 * r, block), n)
    pad_border[grid](x, out, h, w, *x.stride(), r, c, BORDERS[border], rows, block)
    return out


@triton.jit
def first_maps(
    x_tile, w_ptr, b_ptr, row, WP, slope,
    C: tl.constexpr, K: tl.constexpr, C1: tl.constexpr, KP: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """act(w * x + b) [BM, C1] in fp32, of windows that begin at x_tile + row [BM]."""
    co = tl.arange(0, C1)
    acc = tl.zeros((BM, C1), tl.float32)
    for k0 in range(0, KP, BK):
        k = k0 + tl.arange(0, BK)
        tap = k // C
        at = ((tap // K) * WP + tap % K) * C + k % C
        a = tl.load(x_tile + row[:, None] + at[None, :], mask=(k < K * K * C)[None, :], other=0.0)
        w = tl.load(w_ptr + k[:, None] * C1 + co[None, :])
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
    if BIAS:
        acc += tl.load(b_ptr + co)[None, :]
    return act(acc, ACT, slope)


@triton.jit
def next_maps(
    t, w_ptr, b_ptr, slope,
    C1: tl.constexpr, C2: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """act(W2 t + b2) [BM, C2] in fp32, of t [BM, C1]."""
    c1 = tl.arange(0, C1)
    c2 = tl.arange(0, C2)
    w = tl.load(w_ptr + c1[:, None] * C2 + c2[None, :])
    t = tl.dot(t.to(w.dtype), w, input_precision=PRECISION)
    if BIAS:
        t += tl.load(b_ptr + c2)[None, :]
    return act(t, ACT, slope)


@triton.jit
def conv_image(
    x_ptr, w_ptr, b_ptr, w2_ptr, b2_ptr, slopes_ptr, r_ptr, y_ptr, H, W, slope, slope2,
    C: tl.constexpr, K: tl.constexpr, CO: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, KP: tl.constexpr,
    BK: tl.constexpr, ACT: tl.constexpr, ACT2: tl.constexpr, BIAS: tl.constexpr, BIAS2: tl.constexpr,
    SLOPES: tl.constexpr, RESIDUAL: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    WP = W + K - 1
    columns = tl.cdiv(W, TW)
    y0 = tl.program_id(0) // columns * TH
    x0 = tl.program_id(0) % columns * TW
    n = tl.program_id(1).to(tl.int64)
    m = tl.arange(0, TH * TW)
    # Pixels after the end read the last one's window.
    my = tl.minimum(m // TW, H - 1 - y0)
    mx = tl.minimum(m % TW, W - 1 - x0)
    stored = (m // TW == my) & (m % TW == mx)
    x_tile = x_ptr + ((n * (H + K - 1) + y0) * WP + x0) * C
    # Between the two layers the activation is the first one's; else it comes at the end.
    FIRST: tl.constexpr = ACT if C2 > 0 else 0
    LAST: tl.constexpr = 0 if C2 > 0 else ACT
    t = first_maps(
        x_tile, w_ptr, b_ptr, (my * WP + mx) * C, WP, slope, C, K, C1, KP, BK, TH * TW, FIRST, BIAS, PRECISION
    )
    if C2 > 0:
        t = next_maps(t, w2_ptr, b2_ptr, slope2, C1, C2, ACT2, BIAS2, PRECISION)
        co = tl.arange(0, C2)
    else:
        co = tl.arange(0, C1)
    origin = ((n * H + y0) * W + x0) * CO
    place = ((my * W + mx) * CO)[:, None] + co[None, :]
    mask = stored[:, None] & (co < CO)[None, :]
    r = 0.0
    if RESIDUAL:
        r = tl.load(r_ptr + origin + place, mask=mask, other=0.0).to(tl.float32)
    if SLOPES:
        t = ended(t, r, LAST, RESIDUAL, tl.load(slopes_ptr + co)[None, :])
    else:
        t = ended(t, r, LAST, RESIDUAL, slope)
    tl.store(y_ptr + origin + place, t.to(y_ptr.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Packed:
    w: torch.Tensor  # [k k Ci', C1'] in the dtype of the products
    b: torch.Tensor | None
    w2: torch.Tensor | None  # [C1', C2']
    b2: torch.Tensor | None
    c: int
    k: int
    co: int
    dtype: torch.dtype  # of the output
    precision: str
    slopes: torch.Tensor | None = None  # [C1'] fp32, without w2


def product_dtype(dtype: torch.dtype, *weights: torch.Tensor) -> torch.dtype:
    """fp16 for both half precisions, unless a weight is beyond its range."""
    fits = all(bool((w.abs() < 6e4).all()) for w in weights)
    return torch.float16 if dtype == torch.bfloat16 and fits else dtype


def pack(
    w: torch.Tensor,  # [C1, Ci, k, k] fp32
    b: torch.Tensor | None,
    w2: torch.Tensor | None,  # [C2, C1, 1, 1]
    b2: torch.Tensor | None,
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    slopes: torch.Tensor | None = None,  # [C1]
) -> Packed:
    c1, c, k, _ = w.shape
    made = product_dtype(dtype, w)
    depth = k * k * c
    c1p = max(16, triton.next_power_of_2(c1))
    packed = torch.zeros((16 if depth <= 16 else up(depth, 32), c1p), dtype=made, device=device)
    packed[:depth, :c1] = w.to(device).permute(2, 3, 1, 0).reshape(depth, c1).to(made)
    second, co = None, c1
    if w2 is not None:
        co = w2.shape[0]
        second = torch.zeros((c1p, max(16, triton.next_power_of_2(co))), dtype=made, device=device)
        second[:c1, :co] = w2[:, :, 0, 0].T.to(device).to(made)
    bias2 = None if second is None else as_bias(b2, second.shape[1], device)
    biases = as_bias(b, c1p, device), second, bias2
    held = as_bias(slopes, c1p, device)
    return Packed(packed, *biases, c, k, co, out_dtype(co, dtype), dot_precision(made, params), held)


def candidates(p: Packed) -> list[Config]:
    c1 = p.w.shape[1]
    if p.w.dtype == torch.float32 and p.precision == "ieee":
        return [Config(4, 8, c1, 16, 4, 2), Config(8, 8, c1, 16, 4, 2)]
    k = min(32, p.w.shape[0])
    return [Config(8, 16, c1, k, 4, 2), Config(8, 32, c1, k, 8, 2), Config(8, 8, c1, k, 8 if c1 > 64 else 4, 2)]


def launch(
    p: Packed,
    x: torch.Tensor,  # [N, Ci, H, W]
    residual: torch.Tensor | None = None,  # [N, C, H, W], channels of a pixel together
    *,
    border: str,
    activation: str,
    slope: float,
    activation2: str = "none",
    slope2: float = 0.0,
    sum_inside: bool = False,
    gate: bool = False,
    config: Config | None = None,
) -> torch.Tensor:  # [N, C, H, W]
    n, _, h, w = x.shape
    source = padded(x, p.k // 2, border, p.w.dtype)
    out = empty(n, p.co, h, w, p.dtype, x.device)
    c = config or candidates(p)[0]
    conv_image[(triton.cdiv(h, c.rows) * triton.cdiv(w, c.columns), n)](
        source, p.w, p.b, p.w2, p.b2, p.slopes, residual, out, h, w, slope, slope2,
        p.c, p.k, p.co, p.w.shape[1], 0 if p.w2 is None else p.w2.shape[1], p.w.shape[0], c.k,
        ACTIVATIONS[activation], ACTIVATIONS[activation2], p.b is not None, p.b2 is not None,
        p.slopes is not None, how_residual(residual, sum_inside, gate), c.rows, c.columns, p.precision, **c.how,
    )  # fmt: skip
    return out
