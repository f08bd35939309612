# SPDX-License-Identifier: Apache-2.0
"""upsample_residual   y[s i + a, s j + b] = x[i, j] + W_ab' act(x[i, j]) + bias                    paper 002, section 3.2

shapes   x [N, h, w, C]   W [s s, C, C']   bias [C'] fp32   y [N, s h, s w, C]       working dtype, sums in fp32
work     one program = `columns` pixels of x in the order of memory, one (a, b), n channels: a product
         [columns, C] . [C, n] whose rows go to every s-th pixel; programs of the same pixels are neighbours
cost     2 C C FLOP and, in HBM, 1 / s s reads and C writes a pixel of y (C = 128, fp16: 32.8 kFLOP and 256 B + 256 / s s,
         about 100 FLOP a byte: bound by writing). H200, 640 x 360, s = 3: 0.43 ms with 64 pixels a program, 0.67 with 128.
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
    Config,
    act_as,
    as_bias,
    dot_precision,
    empty,
    out_dtype,
    pixels_last,
    refuse_dtype,
    up,
)


@triton.jit
def deconv(
    x_ptr, w_ptr, b_ptr, y_ptr, pixels, width, slope,
    C: tl.constexpr, CP: tl.constexpr, S: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    NB: tl.constexpr = (CP + BN - 1) // BN
    phase = tl.program_id(0) // NB % (S * S)
    first = (tl.program_id(0) // (NB * S * S)).to(tl.int64) * BM
    m = first + tl.arange(0, BM)
    valid = m < pixels
    co = tl.program_id(0) % NB * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, C, BK):
        ci = k0 + tl.arange(0, BK)
        a = tl.load(x_ptr + m[:, None] * C + ci[None, :], mask=valid[:, None] & (ci < C)[None, :], other=0.0)
        w_at = w_ptr + (phase * C + ci)[:, None] * CP + co[None, :]
        w = tl.load(w_at, mask=(ci < C)[:, None] & (co < CP)[None, :], other=0.0)
        acc = tl.dot(act_as(a, ACT, slope).to(w.dtype), w, acc, input_precision=PRECISION)
    if BIAS:
        acc += tl.load(b_ptr + co, mask=co < CP, other=0.0)[None, :]
    mask = valid[:, None] & (co < C)[None, :]
    acc += tl.load(x_ptr + m[:, None] * C + co[None, :], mask=mask, other=0.0).to(tl.float32)
    # Rows of all images lie one after another: S rows of y for one of x.
    row = m // width
    place = ((row * S + phase // S) * width + m % width) * S + phase % S
    tl.store(y_ptr + place[:, None] * C + co[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Packed:
    w: torch.Tensor  # [s s, C, C'] working dtype
    b: torch.Tensor | None  # [C'] fp32
    c: int
    precision: str


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    if shapes["w"][0] < 8:
        return f"{shapes['w'][0]} channels are too few for matrix products"
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor],  # w [C, C, s, s] (in, out), b [C] or none, fp32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    w = weights["w"]
    c, _, s, _ = w.shape
    cp = up(c, 16)
    packed = torch.zeros((s * s, c, cp), dtype=dtype, device=device)
    packed[:, :, :c] = w.to(device).permute(2, 3, 0, 1).reshape(s * s, c, c).to(dtype)
    return Packed(packed, as_bias(weights.get("b"), cp, device), c, dot_precision(dtype, params))


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    c = packed.c
    if packed.w.dtype == torch.float32 and packed.precision == "ieee":
        return [Config(1, 64, 32, 16, 4, 2), Config(1, 32, 32, 16, 4, 2)]
    n = 16 if c <= 16 else 32 if c <= 32 else 64 if c <= 64 else 128
    k = 16 if c <= 16 else 32 if c <= 32 else 64
    return [
        Config(1, 64, n, k, 4, 2),
        Config(1, 64, min(n, 64), k, 4, 2),
        Config(1, 128, n, k, 4 if n <= 64 else 8, 2),
        Config(1, 128, min(n, 64), k, 4, 3),
    ]


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, C, h, w]
    *,
    scale: int,
    activation: str = "relu",
    slope: float = 0.0,
    config: Config | None = None,
) -> torch.Tensor:  # [N, C, s h, s w]
    x = pixels_last(x)
    n, c, h, w = x.shape
    out = empty(n, c, h * scale, w * scale, out_dtype(c, packed.w.dtype), x.device)
    g = config or candidates(packed, x.device)[0]
    cp = packed.w.shape[2]
    grid = (triton.cdiv(n * h * w, g.columns) * scale**2 * triton.cdiv(cp, g.n),)
    deconv[grid](
        x, packed.w, packed.b, out, n * h * w, w, slope,
        c, cp, scale, ACTIVATIONS[activation], packed.b is not None, g.columns, g.n, g.k, packed.precision, **g.how,
    )  # fmt: skip
    return out


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
