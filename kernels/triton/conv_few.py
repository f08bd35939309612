# SPDX-License-Identifier: Apache-2.0
"""conv_few   y = act(w * act_in(x) + b [+ r]) [+ r]        k x k to 4 or fewer channels, for conv2d: a network's last layer

shapes   x [N, H, W, Ci]   w [k k, Co', Ci'] fp32   r, y [N, H, W, Co] fp32   Co', Ci' powers of two
work     one program = a tile of pixels; sums [pixels, Co', Ci'] by multiply-add over the taps, then over the channels.
         A matrix product of 1 to 4 columns would be padded to 16; here the taps come from L1, which holds the tile
cost     2 k k Ci Co FLOP a pixel on the CUDA cores (64 -> 1, 3 x 3: 1152); HBM reads Ci (+ Co), writes Co numbers a
         pixel; L1 reads k k Ci numbers a pixel. Not measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    empty,
    ended,
    how_residual,
    pixels_last,
)


@triton.jit
def conv_few(
    x_ptr, w_ptr, b_ptr, slopes_ptr, r_ptr, y_ptr, H, W, slope,
    CI: tl.constexpr, CO: tl.constexpr, COP: tl.constexpr, CIP: tl.constexpr, BC: tl.constexpr, K: tl.constexpr,
    BORDER: tl.constexpr, ACT_IN: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, SLOPES: tl.constexpr,
    RESIDUAL: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = K // 2
    columns = tl.cdiv(W, TW)
    y0 = tl.program_id(0) // columns * TH
    x0 = tl.program_id(0) % columns * TW
    origin = (tl.program_id(1).to(tl.int64) * H + y0) * W + x0
    m = tl.arange(0, TH * TW)
    my = m // TW
    mx = m % TW
    co = tl.arange(0, COP)
    acc = tl.zeros((TH * TW, COP, BC), tl.float32)
    for c0 in range(0, CIP, BC):
        ci = c0 + tl.arange(0, BC)
        for tap in range(K * K):
            ty = y0 + my + (tap // K - R)
            tx = x0 + mx + (tap % K - R)
            read = (ty >= 0) & (ty < H) & (tx >= 0) & (tx < W) if BORDER == 0 else (m >= 0)
            sy = border_index(ty, H, BORDER) - y0
            sx = border_index(tx, W, BORDER) - x0
            at = x_ptr + origin * CI + ((sy * W + sx) * CI)[:, None] + ci[None, :]
            a = tl.load(at, mask=read[:, None] & (ci < CI)[None, :], other=0.0).to(tl.float32)
            w = tl.load(w_ptr + tap * COP * CIP + co[:, None] * CIP + ci[None, :])
            acc += act(a, ACT_IN, slope)[:, None, :] * w[None, :, :]
    y = tl.sum(acc, 2)
    if BIAS:
        y += tl.load(b_ptr + co)[None, :]
    stored = ((y0 + my < H) & (x0 + mx < W))[:, None] & (co < CO)[None, :]
    place = origin * CO + ((my * W + mx) * CO)[:, None] + co[None, :]
    r = 0.0
    if RESIDUAL:
        r = tl.load(r_ptr + place, mask=stored, other=0.0).to(tl.float32)
    if SLOPES:
        y = ended(y, r, ACT, RESIDUAL, tl.load(slopes_ptr + co)[None, :])
    else:
        y = ended(y, r, ACT, RESIDUAL, slope)
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=stored)


@dataclass(frozen=True)
class Packed:
    w: torch.Tensor  # [k k, Co', Ci'] fp32, of the working dtype's numbers
    b: torch.Tensor | None
    slopes: torch.Tensor | None  # [Co'] fp32
    ci: int
    co: int
    k: int


def pack(w: torch.Tensor, b: torch.Tensor | None, slopes: torch.Tensor | None, device: torch.device) -> Packed:
    """w [Co, Ci, k, k], b and slopes [Co], fp32 whatever the working dtype: products are fp32 here."""
    co, ci, k, _ = w.shape
    cop, cip = triton.next_power_of_2(co), max(16, triton.next_power_of_2(ci))
    packed = torch.zeros((k * k, cop, cip), device=device)
    packed[:, :co, :ci] = w.to(device).permute(2, 3, 0, 1).reshape(k * k, co, ci)
    return Packed(packed, as_bias(b, cop, device), as_bias(slopes, cop, device), ci, co, k)


def candidates(p: Packed) -> list[Config]:
    """Sums of 64 registers a thread; `k` is the channels taken at once."""
    k = min(p.w.shape[2], 128)
    pixels = max(16, 8192 // (k * p.w.shape[1]))
    found = [(8, pixels // 8), (4, pixels // 4)]
    return [Config(rows, columns, p.w.shape[1], k, 4, 2) for rows, columns in found]


def launch(
    p: Packed,
    x: torch.Tensor,  # [N, Ci, H, W]
    residual: torch.Tensor | None = None,  # [N, Co, H, W]
    *,
    border: str = "zero",
    input_activation: str = "none",
    activation: str = "none",
    sum_inside: bool = False,
    gate: bool = False,
    slope: float = 0.0,
    config: Config | None = None,
) -> torch.Tensor:  # [N, Co, H, W] fp32
    n, _, h, w = x.shape
    x = pixels_last(x)
    residual = None if residual is None else pixels_last(residual)
    out = empty(n, p.co, h, w, torch.float32, x.device)
    c = config or candidates(p)[0]
    conv_few[(triton.cdiv(h, c.rows) * triton.cdiv(w, c.columns), n)](
        x, p.w, p.b, p.slopes, residual, out, h, w, slope, p.ci, p.co, p.w.shape[1], p.w.shape[2], c.k, p.k, BORDERS[border],
        ACTIVATIONS[input_activation], ACTIVATIONS[activation], p.b is not None,
        p.slopes is not None, how_residual(residual, sum_inside, gate), c.rows, c.columns, **c.how,
    )  # fmt: skip
    return out
