# SPDX-License-Identifier: Apache-2.0
"""shallow   y = w3 * act(W2 act(w1 * x + b1) + b2) + b3 [+ r], or without W2     three conv2d steps of a plan in one kernel

SRCNN 9-1-5 (paper 001) whole, ANNet's integration 5-3 (paper 000, Eq. 6-7): the wide maps never reach memory. A layer on an
image and a 1 x 1 behind it, of networks that go on otherwise, are one launch of conv_image.

shapes   x [N, 1..4, H, W]   w1 [k1 k1 Ci', C1']   W2 [C1', C2'] or none   w3 [C', taps'], taps = k3 k3 up to 64
         r, y [N, 1, H, W] fp32
work     one program = a window of rows x columns pixels, of which all but k3 - 1 rows and columns are its output: the maps
         t [pixels, C'] as in conv_image, then one product [pixels, C'] . [C', taps'] of what every pixel gives to each of
         its neighbours, and a gather (tl.gather, through shared memory) that sums the k3 k3 gifts of an output pixel
border   a map's value outside the image is that of the pixel its border names, which the window makes again; under the
         zero border its gifts are zero
cost     2 h (C1 k1 k1 Ci' + C1 C2 + C taps') FLOP a pixel, h = window / output in 16 x 16: 9-1-5 1.78, 33 kFLOP; 5-3 1.31,
         8 kFLOP; HBM reads 1 (+ 1 of r) and writes 1 number a pixel; step by step 9-1-5 in fp16 moves 264 B. Not
         measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from . import conv_image
from .common import (
    ACTIVATIONS,
    BORDERS,
    IMAGE,
    Config,
    as_bias,
    border_index,
    capability,
    empty,
    pixels_last,
    refuse_dtype,
)
from .conv_image import first_maps, next_maps


@triton.jit
def shallow(
    x_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, w3_ptr, b3_ptr, r_ptr, y_ptr, H, W, slope1, slope2,
    C: tl.constexpr, K1: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, K3: tl.constexpr, TAPS: tl.constexpr,
    KP: tl.constexpr, BK: tl.constexpr, ACT1: tl.constexpr, ACT2: tl.constexpr, BIAS1: tl.constexpr,
    BIAS2: tl.constexpr, BIAS3: tl.constexpr, RESIDUAL: tl.constexpr, BORDER: tl.constexpr, TH: tl.constexpr,
    TW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = K3 // 2
    OH: tl.constexpr = TH - K3 + 1
    OW: tl.constexpr = TW - K3 + 1
    BM: tl.constexpr = TH * TW
    WP = W + K1 - 1
    columns = tl.cdiv(W, OW)
    y0 = tl.program_id(0) // columns * OH
    x0 = tl.program_id(0) % columns * OW
    n = tl.program_id(1).to(tl.int64)
    m = tl.arange(0, BM)
    ty = y0 - R + m // TW
    tx = x0 - R + m % TW
    inside = (ty >= 0) & (ty < H) & (tx >= 0) & (tx < W)
    # What lies outside the image is made where its border says; beyond that border nothing is used: any pixel will do.
    my = tl.minimum(tl.maximum(border_index(ty, H, BORDER), 0), H - 1) - y0
    mx = tl.minimum(tl.maximum(border_index(tx, W, BORDER), 0), W - 1) - x0
    x_tile = x_ptr + ((n * (H + K1 - 1) + y0) * WP + x0) * C
    t = first_maps(
        x_tile, w1_ptr, b1_ptr, (my * WP + mx) * C, WP, slope1, C, K1, C1, KP, BK, BM, ACT1, BIAS1, PRECISION
    )
    if C2 > 0:
        t = next_maps(t, w2_ptr, b2_ptr, slope2, C1, C2, ACT2, BIAS2, PRECISION)
        c = tl.arange(0, C2)
    else:
        c = tl.arange(0, C1)
    k = tl.arange(0, TAPS)
    w3 = tl.load(w3_ptr + c[:, None] * TAPS + k[None, :])
    gifts = tl.dot(t.to(w3.dtype), w3, input_precision=PRECISION)
    if BORDER == 0:
        gifts = tl.where(inside[:, None], gifts, 0.0)
    # Output pixel (i, j) of the tile lies at (i + R, j + R) of the window, its tap (a, b) at (i + a, j + b).
    i = tl.minimum(m // OW, OH - 1)
    j = m % OW
    tap = tl.minimum(k, K3 * K3 - 1)
    source = (i[:, None] + (tap // K3)[None, :]) * TW + j[:, None] + (tap % K3)[None, :]
    y = tl.sum(tl.where((k < K3 * K3)[None, :], tl.gather(gifts, source, 0), 0.0), 1)
    if BIAS3:
        y += tl.load(b3_ptr)
    stored = (m < OH * OW) & (y0 + i < H) & (x0 + j < W)
    place = (n * H + y0) * W + x0 + i * W + j
    if RESIDUAL:
        y += tl.load(r_ptr + place, mask=stored, other=0.0).to(tl.float32)
    tl.store(y_ptr + place, y, mask=stored)


@dataclass(frozen=True)
class Packed:
    maps: conv_image.Packed
    w3: torch.Tensor | None  # [C', taps']; None where the maps are the output
    b3: torch.Tensor | None
    k3: int
    border: str
    activations: tuple[tuple[str, float], ...]


def front(shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> bool:
    """Whether the steps are a layer on an image and a 1 x 1 to maps: conv_image, which has no window."""
    return len(shapes) == 2 and shapes[1]["w"][2] == 1 and shapes[1]["w"][0] > IMAGE


def supports(
    params: Sequence[Mapping[str, Any]],  # of two or three conv2d steps, each the next one's only reader
    shapes: Sequence[Mapping[str, tuple[int, ...]]],
    dtype: torch.dtype,
) -> str | None:
    if len(params) not in (2, 3):
        return f"{len(params)} steps are not two or three"
    if any("slopes" in s for s in shapes) or any(p.get("join", 1) > 1 or p.get("gate") for p in params):
        return "a slope for each channel, joined inputs or a gate"
    w = [s["w"] for s in shapes]
    if not w[0][1] <= IMAGE < w[0][0] <= 64 or w[0][2] > 15:
        return "the first layer is not one of an image to at most 64 maps"
    if any(p.get("input_activation", "none") != "none" or p.get("sum_inside") for p in params):
        return "an activation before a layer, or after its sum"
    if front(shapes):
        return refuse_dtype(dtype) if w[1][0] <= 64 else f"{w[1][0]} maps are more than 64"
    if len(w) == 3 and (w[1][2] != 1 or not IMAGE < w[1][0] <= 64):
        return "the layer between is not 1 x 1 to at most 64 maps"
    if w[-1][0] != 1 or w[-1][2] > 7:
        return "the last layer is not up to 7 x 7 to one channel"
    if dtype == torch.float32 and w[-1][2] > 3 and not params[0].get("tf32"):
        return "exact fp32 products are too slow to be made again for a window of 5 x 5"
    if params[-1].get("activation", "none") != "none":
        return "an activation after the last layer"
    if params[0].get("border", "zero") != params[-1].get("border", "zero"):
        return "layers of different borders"
    return refuse_dtype(dtype)


def pack(
    weights: Sequence[Mapping[str, torch.Tensor]],  # of the steps, w [Co, Ci, k, k], b [Co] or none, fp32
    params: Sequence[Mapping[str, Any]],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    first, last = weights[0], weights[-1]
    only_maps = front([{"w": tuple(w["w"].shape)} for w in weights])
    between = weights[1] if len(weights) == 3 or only_maps else {}
    maps = conv_image.pack(first["w"], first.get("b"), between.get("w"), between.get("b"), params[0], dtype, device)
    border = str(params[0].get("border", "zero"))
    acts = [(str(p.get("activation", "none")), float(p.get("slope", 0.0))) for p in params]
    if only_maps:
        return Packed(maps, None, None, 1, border, tuple(acts))
    _, c, k, _ = last["w"].shape
    width = (maps.w if maps.w2 is None else maps.w2).shape[1]
    w3 = torch.zeros((width, max(16, triton.next_power_of_2(k * k))), dtype=maps.w.dtype, device=device)
    w3[:c, : k * k] = last["w"].to(device).reshape(c, k * k).to(maps.w.dtype)
    return Packed(maps, w3, as_bias(last.get("b"), 1, device), k, border, tuple(acts[:-1]))


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    if packed.w3 is None:
        return conv_image.candidates(packed.maps)
    taps = packed.w3.shape[1]
    if packed.maps.w.dtype == torch.float32 and packed.maps.precision == "ieee":
        return [Config(16, 16, taps, 16, 8, 2), Config(8, 16, taps, 16, 8, 2)]
    k = min(32, packed.maps.w.shape[0])
    found = [Config(16, 16, taps, k, 8, 2)]
    return [*found, Config(16, 32, taps, k, 8, 2)] if capability(device) >= 100 else found


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, Ci, H, W]
    residual: torch.Tensor | None = None,  # [N, 1 or C, H, W]
    *,
    config: Config | None = None,
) -> torch.Tensor:  # [N, 1, H, W] fp32, or the maps
    p = packed.maps
    n, _, h, w = x.shape
    residual = None if residual is None else pixels_last(residual)
    (act1, slope1), (act2, slope2) = (*packed.activations, ("none", 0.0))[:2]
    if packed.w3 is None:
        how: dict[str, Any] = {"activation": act1, "slope": slope1, "activation2": act2, "slope2": slope2}
        return conv_image.launch(p, x, residual, border=packed.border, config=config, **how)
    source = conv_image.padded(x, p.k // 2, packed.border, p.w.dtype)
    out = empty(n, 1, h, w, torch.float32, x.device)
    c = config or candidates(packed, x.device)[0]
    r = packed.k3 - 1
    shallow[(triton.cdiv(h, c.rows - r) * triton.cdiv(w, c.columns - r), n)](
        source, p.w, p.b, p.w2, p.b2, packed.w3, packed.b3, residual, out, h, w, slope1, slope2,
        p.c, p.k, p.w.shape[1], 0 if p.w2 is None else p.w2.shape[1], packed.k3, packed.w3.shape[1],
        p.w.shape[0], c.k, ACTIVATIONS[act1], ACTIVATIONS[act2], p.b is not None, p.b2 is not None,
        packed.b3 is not None, residual is not None, BORDERS[packed.border], c.rows, c.columns, p.precision, **c.how,
    )  # fmt: skip
    return out
