# SPDX-License-Identifier: Apache-2.0
"""conv_gemm   y = act(w * act_in(x) + b [+ r]) [+ r]       k x k, stride 1, implicit GEMM, for conv2d and cista

shapes   x [N, H, W, Ci]   w [k k, Ci, Co']   b [Co'] fp32   r, y [N, H, W, Co]   Co' = Co up to a multiple of 16
         of e4m3 x and w: w [k k, Co', Ci], since 8-bit products read both by channel; sums times scale [Co'] fp32;
         an e4m3 y is divided by its own scale
work     one program = a tile of rows x columns pixels times n output channels; k k Ci / k products
         [rows columns, k] . [k, n]; programs of one tile and different channels are neighbours, so that its pixels are
         read from memory once and from L2 otherwise
cost     2 k k Ci Co FLOP a pixel; HBM reads Ci + writes Co (+ reads Co of r) numbers a pixel. L2 is what limits wide layers:
         every tap fetches its pixels again, 32 KB for 2.1 MFLOP in tiles of 128 pixels x 128 channels (64 FLOP a byte; at
         5.5 TB/s 350 TFLOP/s), 24 KB for 2.1 MFLOP in 256 x 128 (470). Not measured on a GPU. Next: one halo tile in shared
         memory for all nine taps, which Triton cannot address by pixel (kernels/cuda can).

fp8      two times the products a second, and half of what L2 brings: 470 TFLOP/s at 128 x 128 become 940. On sm_90 tensor
         cores sum e4m3 products in about 14 bits; `IMPRECISE` has each step of the loop added up in fp32 outside of them.

Taps are a loop of run time: unrolled, an fp32 tile takes minutes to compile. The sum runs over taps, then channels, in
steps of the instruction, whatever the tile: a pixel's value does not depend on where a tile begins.
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
    E4M3,
    Config,
    act_as,
    as_bias,
    border_index,
    capability,
    dot_precision,
    empty,
    ended,
    how_residual,
    out_dtype,
    pixels_last,
    stored_as,
    up,
    weights_e4m3,
)


@triton.jit
def conv_gemm(
    x_ptr, w_ptr, b_ptr, slopes_ptr, r_ptr, scale_ptr, y_ptr, H, W, slope, y_times,
    CI: tl.constexpr, CO: tl.constexpr, COP: tl.constexpr, K: tl.constexpr, BORDER: tl.constexpr,
    ACT_IN: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, SLOPES: tl.constexpr, RESIDUAL: tl.constexpr,
    SCALED: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    WK: tl.constexpr, WN: tl.constexpr, IMPRECISE: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = K // 2
    KB: tl.constexpr = (CI + BK - 1) // BK
    NB: tl.constexpr = (COP + BN - 1) // BN
    columns = tl.cdiv(W, TW)
    tile = tl.program_id(0) // NB
    y0 = tile // columns * TH
    x0 = tile % columns * TW
    origin = (tl.program_id(1).to(tl.int64) * H + y0) * W + x0
    m = tl.arange(0, TH * TW)
    my = m // TW
    mx = m % TW
    co = tl.program_id(0) % NB * BN + tl.arange(0, BN)
    acc = tl.zeros((TH * TW, BN), tl.float32)
    x_tile = x_ptr + origin * CI
    for i in range(K * K * KB):
        tap = i // KB
        ci = (i - tap * KB) * BK + tl.arange(0, BK)
        ty = y0 + my + (tap // K - R)
        tx = x0 + mx + (tap % K - R)
        inside = (ty >= 0) & (ty < H) & (tx >= 0) & (tx < W)
        sy = border_index(ty, H, BORDER) - y0
        sx = border_index(tx, W, BORDER) - x0
        at = x_tile + ((sy * W + sx) * CI)[:, None] + ci[None, :]
        if BORDER == 0:
            if CI % BK == 0:
                a = tl.load(at, mask=inside[:, None], other=0.0)
            else:
                a = tl.load(at, mask=inside[:, None] & (ci < CI)[None, :], other=0.0)
        else:
            if CI % BK == 0:
                a = tl.load(at)
            else:
                a = tl.load(at, mask=(ci < CI)[None, :], other=0.0)
        w_at = w_ptr + tap * (CI * COP) + ci[:, None] * WK + co[None, :] * WN
        if CI % BK == 0 and COP % BN == 0:
            w = tl.load(w_at)
        else:
            w = tl.load(w_at, mask=(ci < CI)[:, None] & (co < COP)[None, :], other=0.0)
        a = act_as(a, ACT_IN, slope).to(w.dtype)
        acc = tl.dot(a, w, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE)
    if SCALED:
        acc *= tl.load(scale_ptr + co, mask=co < COP, other=0.0)[None, :]
    if BIAS:
        acc += tl.load(b_ptr + co, mask=co < COP, other=0.0)[None, :]
    stored = ((y0 + my < H) & (x0 + mx < W))[:, None] & (co < CO)[None, :]
    place = ((my * W + mx) * CO)[:, None] + co[None, :]
    r = 0.0
    if RESIDUAL:
        r = tl.load(r_ptr + origin * CO + place, mask=stored, other=0.0).to(tl.float32)
    if SLOPES:
        acc = ended(acc, r, ACT, RESIDUAL, tl.load(slopes_ptr + co, mask=co < COP, other=0.0)[None, :])
    else:
        acc = ended(acc, r, ACT, RESIDUAL, slope)
    tl.store(y_ptr + origin * CO + place, stored_as(acc, y_times, y_ptr.dtype.element_ty), mask=stored)


@dataclass(frozen=True)
class Packed:
    w: torch.Tensor  # [k k, Ci, Co'] working dtype, or e4m3, by channels in
    b: torch.Tensor | None  # [Co'] fp32
    ci: int
    co: int
    k: int
    precision: str
    scale: torch.Tensor | None = None  # [Co'] fp32: of e4m3 products
    slopes: torch.Tensor | None = None  # [Co'] fp32


def pack(
    w: torch.Tensor,  # [Co, Ci, k, k] fp32
    b: torch.Tensor | None,  # [Co]
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    slopes: torch.Tensor | None = None,  # [Co]
) -> Packed:
    co, ci, k, _ = w.shape
    cop = up(co, 16)
    packed = torch.zeros((k * k, ci, cop), dtype=dtype, device=device)
    packed[:, :, :co] = w.to(device).permute(2, 3, 1, 0).reshape(k * k, ci, co).to(dtype)
    held = as_bias(slopes, cop, device)
    return Packed(packed, as_bias(b, cop, device), ci, co, k, dot_precision(dtype, params), slopes=held)


def pack_e4m3(
    w: torch.Tensor,  # [Co, Ci, k, k] fp32
    x_scale: float,  # of the e4m3 input
    device: torch.device,
) -> Packed:
    co, ci, k, _ = w.shape
    cop = up(co, 16)
    rounded, scale = weights_e4m3(w.to(device))
    packed = torch.zeros((k * k, cop, ci), dtype=E4M3, device=device)
    packed[:, :co] = rounded.permute(2, 3, 0, 1).reshape(k * k, co, ci)
    return Packed(packed.transpose(1, 2), None, ci, co, k, "ieee", as_bias(scale * x_scale, cop, device))


def candidates(dtype: torch.dtype, ci: int, co: int, arch: int) -> list[Config]:
    """The default first. Tiles of exact fp32 products stay small: they are unrolled into single instructions."""
    if dtype == torch.float32:
        n = 32 if co > 16 else 16
        return [Config(8, 8, n, 16, 4, 2), Config(4, 8, n, 16, 4, 2), Config(8, 16, n, 16, 8, 2)]
    n = 16 if co <= 16 else 32 if co <= 32 else 64 if co <= 64 else 128
    k = 16 if ci <= 16 else 32 if ci <= 32 else 64
    if dtype == E4M3:
        # The same bytes a step as in fp16. Sums are kept twice (`IMPRECISE`): larger tiles spill.
        k = 32 if ci <= 32 else 64 if ci <= 64 else 128
        return [Config(8, 16, n, k, 8, 3), Config(8, 16, n, min(k, 64), 8, 4), Config(8, 8, n, k, 4, 3)]
    if n == 128:
        # 3 stages of 32 KB: two programs a processor of sm_90 and sm_100, and one where 99 KB are all.
        found = [Config(8, 16, 128, k, 8, 3), Config(8, 16, 64, k, 4, 3), Config(8, 8, 128, k, 4, 3)]
        if arch >= 90:
            found += [Config(16, 16, 128, min(k, 32), 8, 4)]
            # On sm_100 its epilogue needs more registers than there are.
            found += [Config(8, 16, 256, min(k, 32), 8, 4)] if co >= 256 and arch < 100 else []
        return found
    stages = 4 if 90 <= arch < 120 else 3
    return [Config(8, 16, n, k, 4, stages), Config(8, 8, n, k, 4, stages), Config(16, 16, n, k, 8, 3)]


def launch(
    p: Packed,
    x: torch.Tensor,  # [N, Ci, H, W]
    residual: torch.Tensor | None = None,  # [N, Co, H, W]
    out: torch.Tensor | None = None,
    *,
    border: str = "zero",
    input_activation: str = "none",
    activation: str = "none",
    sum_inside: bool = False,
    gate: bool = False,
    slope: float = 0.0,
    y_scale: float = 1.0,
    config: Config | None = None,
) -> torch.Tensor:  # [N, Co, H, W]
    n, _, h, w = x.shape
    x = pixels_last(x)
    residual = None if residual is None else pixels_last(residual)
    if out is None:
        out = empty(n, p.co, h, w, out_dtype(p.co, p.w.dtype), x.device)
    c = config or candidates(p.w.dtype, p.ci, p.co, capability(x.device))[0]
    cop = p.w.shape[2]
    grid = (triton.cdiv(h, c.rows) * triton.cdiv(w, c.columns) * triton.cdiv(cop, c.n), n)
    conv_gemm[grid](
        x, p.w, p.b, p.slopes, residual, p.scale, out, h, w, slope, 1 / y_scale, p.ci, p.co, cop, p.k, BORDERS[border],
        ACTIVATIONS[input_activation], ACTIVATIONS[activation], p.b is not None,
        p.slopes is not None, how_residual(residual, sum_inside, gate), p.scale is not None,
        c.rows, c.columns, c.n, c.k, p.precision, *p.w.stride()[1:], c.k if p.w.dtype == E4M3 else 0, **c.how,
    )  # fmt: skip
    return out
