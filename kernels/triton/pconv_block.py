# SPDX-License-Identifier: Apache-2.0
"""pconv_block   out = x + W3 * t + b3,  t = act(W1 act(x) + b1), 0 outside the image                  paper 002, section 3.3

shapes   x, out [N, H, W, C]   W1 [C', M']   W3 [9, M', C']   b1 [M'], b3 [C'] fp32        C', M' powers of two >= 16
         scratch [programs, halo, M'] working dtype
work     persistent programs; each takes every programs-th tile of rows x columns pixels: t of the tile and one pixel
         around it, `chunk` pixels at a time, into the program's own scratch; a barrier; nine products
         [pixels, M'] . [M', C'] of t shifted by a tap, plus x; a barrier, since the next tile writes the scratch again
why      the 3 x 3 reads t of neighbours, and Triton cannot address registers or shared memory by pixel. Nine 1 x 1s, one a
         tap, would double the block's FLOPs; tl.gather of t would take nine rounds through shared memory in fp32.
         The scratch is written and read over and over at the same 33 KB a program, so it stays in L2 (at most 11 MB for
         132 processors with 2 programs each), and only x and out pass through HBM.
cost     2 (C M h + 9 M C) FLOP a pixel, h = chunks of the halo over the tile (8 x 16: 2); C = 128, M = 64: 180 kFLOP. HBM reads C and writes C numbers a pixel (512 B in fp16; in two kernels 768 B, by eager torch 3072 B):
         350 FLOP a byte, bound by products on an H100 (184). L2: 10 M + 2 C numbers a pixel. Not measured on a GPU.
fp8      (params["fp8"] = x of a sample image) t and W3 in e4m3, W3 scaled by output channel, t by one power of two from the
         sample: 82 % of the products, and half of what L2 brings. x, the 1 x 1 and the sums are as ever.
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
    E4M3,
    Config,
    act,
    act_as,
    as_bias,
    capability,
    dot_precision,
    e4m3_scale,
    empty,
    pixels_last,
    processors,
    refuse_dtype,
    stored_as,
    up,
    weights_e4m3,
)

CHUNK = 128
RESIDENT = 2
"""programs a processor is given: while one waits at its barrier another multiplies"""


@triton.jit
def pconv(
    x_ptr, w1_ptr, b1_ptr, w3_ptr, b3_ptr, scale_ptr, t_ptr, y_ptr, H, W, tiles, slope, t_times,
    C: tl.constexpr, CP: tl.constexpr, M: tl.constexpr, ACT: tl.constexpr, BIAS1: tl.constexpr, BIAS3: tl.constexpr,
    SCALED: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BM1: tl.constexpr,
    PRECISION: tl.constexpr, WK: tl.constexpr, WN: tl.constexpr, IMPRECISE: tl.constexpr,
):  # fmt: skip
    WH: tl.constexpr = TW + 2
    HALO: tl.constexpr = (TH + 2) * WH
    CHUNKS: tl.constexpr = (HALO + BM1 - 1) // BM1
    KB: tl.constexpr = (M + BK - 1) // BK
    columns = tl.cdiv(W, TW)
    each = tl.cdiv(H, TH) * columns
    m = tl.arange(0, TH * TW)
    my = m // TW
    mx = m % TW
    cm = tl.arange(0, M)
    t_mine = t_ptr + tl.program_id(0).to(tl.int64) * (CHUNKS * BM1 * M)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=1):
        n = (tile // each).to(tl.int64)
        y0 = tile % each // columns * TH
        x0 = tile % columns * TW
        origin = (n * H + y0) * W + x0
        for chunk in tl.range(CHUNKS, num_stages=1):
            p = chunk * BM1 + tl.arange(0, BM1)
            ry = p // WH - 1
            rx = p % WH - 1
            inside = (p < HALO) & (y0 + ry >= 0) & (y0 + ry < H) & (x0 + rx >= 0) & (x0 + rx < W)
            t = tl.zeros((BM1, M), tl.float32)
            for k0 in tl.range(0, CP, BK, num_stages=1):
                c = k0 + tl.arange(0, BK)
                at = x_ptr + origin * C + ((ry * W + rx) * C)[:, None] + c[None, :]
                if C % BK == 0:
                    a = tl.load(at, mask=inside[:, None], other=0.0)
                else:
                    a = tl.load(at, mask=inside[:, None] & (c < C)[None, :], other=0.0)
                w1 = tl.load(w1_ptr + c[:, None] * M + cm[None, :])
                t = tl.dot(act_as(a, ACT, slope), w1, t, input_precision=PRECISION)
            if BIAS1:
                t += tl.load(b1_ptr + cm)[None, :]
            t = tl.where(inside[:, None], act(t, ACT, slope), 0.0)
            tl.store(t_mine + p[:, None] * M + cm[None, :], stored_as(t, t_times, t_ptr.dtype.element_ty))
        tl.debug_barrier()
        stored = (y0 + my < H) & (x0 + mx < W)
        for n0 in tl.range(0, CP, BN, num_stages=1):
            co = n0 + tl.arange(0, BN)
            acc = tl.zeros((TH * TW, BN), tl.float32)
            for i in range(9 * KB):
                tap = i // KB
                k = (i - tap * KB) * BK + tl.arange(0, BK)
                at = (my + tap // 3) * WH + mx + tap % 3
                a = tl.load(t_mine + at[:, None] * M + k[None, :])
                w3 = tl.load(w3_ptr + tap * (M * CP) + k[:, None] * WK + co[None, :] * WN)
                acc = tl.dot(a, w3, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE)
            if SCALED:
                acc *= tl.load(scale_ptr + co)[None, :]
            if BIAS3:
                acc += tl.load(b3_ptr + co)[None, :]
            place = origin * C + ((my * W + mx) * C)[:, None] + co[None, :]
            mask = stored[:, None] & (co < C)[None, :]
            acc += tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
            tl.store(y_ptr + place, acc.to(y_ptr.dtype.element_ty), mask=mask)
        tl.debug_barrier()


@dataclass(frozen=True)
class Packed:
    w1: torch.Tensor  # [C', M']
    b1: torch.Tensor | None  # [M']
    w3: torch.Tensor  # [9, M', C'], or e4m3, by channels in
    b3: torch.Tensor | None  # [C']
    c: int
    precision: str
    scale: torch.Tensor | None = None  # [C'] fp32: of e4m3 products
    t_scale: float = 1.0


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    m, c = shapes["w1"][:2]
    if min(c, m) < 8 or m > 128:
        return f"{c} -> {m} channels: at least 8, and at most 128 in the middle"
    if "fp8" in params and min(c, m) <= 16:
        return f"{c} -> {m} channels: e4m3 products need more than 16"
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor],  # w1 [M, C, 1, 1], w3 [C, M, 3, 3], b1 [M] and b3 [C] or none, fp32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    w1, w3 = weights["w1"].to(device), weights["w3"].to(device)
    m, c = w1.shape[:2]
    mp, cp = max(16, triton.next_power_of_2(m)), max(16, triton.next_power_of_2(c))
    first = torch.zeros((cp, mp), dtype=dtype, device=device)
    first[:c, :m] = w1[:, :, 0, 0].T.to(dtype)
    b1, b3 = as_bias(weights.get("b1"), mp, device), as_bias(weights.get("b3"), cp, device)
    precision = dot_precision(dtype, params)
    if "fp8" not in params:
        second = torch.zeros((9, mp, cp), dtype=dtype, device=device)
        second[:, :m, :c] = w3.permute(2, 3, 1, 0).reshape(9, m, c).to(dtype)
        return Packed(first, b1, second, b3, c, precision)
    how = {name: params[name] for name in ("activation", "slope") if name in params}
    t_scale = e4m3_scale(_inner(weights, params["fp8"], **how))
    rounded, scale = weights_e4m3(w3)
    turned = torch.zeros((9, cp, mp), dtype=E4M3, device=device)
    turned[:, :c, :m] = rounded.permute(2, 3, 0, 1).reshape(9, c, m)
    return Packed(first, b1, turned.transpose(1, 2), b3, c, precision, as_bias(scale * t_scale, cp, device), t_scale)


def _inner(
    weights: Mapping[str, torch.Tensor], x: torch.Tensor, activation: str = "relu", slope: float = 0.0
) -> torch.Tensor:
    """t of a sample."""
    b1 = weights.get("b1")

    def curve(v: torch.Tensor) -> torch.Tensor:
        return v if activation == "none" else torch.where(v >= 0, v, v * (slope if activation == "leaky_relu" else 0))

    return curve(torch.nn.functional.conv2d(curve(x), weights["w1"].to(x), None if b1 is None else b1.to(x)))


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    cp, mp = packed.w1.shape
    if packed.w1.dtype == torch.float32:
        n = min(cp, 32)
        return [Config(8, 8, n, 16, 4, 2), Config(4, 8, n, 16, 4, 2)]
    k = min(mp, cp, 64)
    n = min(cp, 128)
    hopper = 90 <= capability(device) < 120
    stages = 3 if hopper else 2
    if packed.scale is not None:
        # Sums are kept twice (`IMPRECISE`): tiles of 64 channels let two programs be resident.
        wide, narrow = Config(8, 16, n, k, 8, stages), Config(8, 16, min(n, 64), k, 8, stages)
        return [wide, narrow, Config(8, 8, min(n, 64), k, 4, stages), Config(8, 16, n, min(k, 32), 8, 4)]
    return [
        Config(8, 16, n, k, 8, stages),
        Config(8, 16, n, k, 8, 2),
        Config(8, 8, min(n, 64), min(k, 32), 4 if hopper else 8, stages),  # more would not fit into registers
        Config(8, 16, n, min(k, 32), 8, 4),
    ]


def chunk_of(dtype: torch.dtype) -> int:
    return CHUNK if dtype != torch.float32 else 64


def halo(config: Config, dtype: torch.dtype) -> int:
    """Pixels of scratch a program has."""
    chunk = chunk_of(dtype)
    return up((config.rows + 2) * (config.columns + 2), chunk)


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, C, H, W]
    *,
    activation: str = "relu",
    slope: float = 0.0,
    config: Config | None = None,
) -> torch.Tensor:  # [N, C, H, W]
    x = pixels_last(x)
    n, c, h, w = x.shape
    dtype = packed.w1.dtype
    out = empty(n, c, h, w, dtype, x.device)
    g = config or candidates(packed, x.device)[0]
    tiles = n * triton.cdiv(h, g.rows) * triton.cdiv(w, g.columns)
    programs = min(tiles, RESIDENT * processors(x.device))
    cp, mp = packed.w1.shape
    t = torch.empty((programs, halo(g, dtype), mp), dtype=packed.w3.dtype, device=x.device)
    pconv[(programs,)](
        x, packed.w1, packed.b1, packed.w3, packed.b3, packed.scale, t, out, h, w, tiles, slope, 1 / packed.t_scale,
        c, cp, mp, ACTIVATIONS[activation], packed.b1 is not None, packed.b3 is not None,
        packed.scale is not None, g.rows, g.columns, g.n, g.k, chunk_of(dtype),
        packed.precision, *packed.w3.stride()[1:], g.k if packed.scale is not None else 0, **g.how,
    )  # fmt: skip
    return out


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
