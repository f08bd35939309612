# SPDX-License-Identifier: Apache-2.0
"""color   split: packed pixels -> planes that the network reads, and chroma and alpha beside them
        join: the network's planes, and chroma and alpha enlarged by bicubic -> packed pixels

shapes   packed [N, H, W, C] of any strides, uint8, uint16 or fp32; C = 1 to 4: gray, gray + alpha, RGB, RGBA
         net [N, 1 or 3, H, W] fp32, the channels of a pixel together   rest [N, K, H, W] fp32, plane after plane
         matrix [3, 4] fp32: RGB -> YCbCr or back, the offset last; only where the network reads Y
work     split: one program = BLOCK pixels in the order of memory. join: one program = ROWS x BLOCK pixels, of each
         channel of rest 16 reads, most of them from L1: enlarged chroma is never in memory
cost     RGB of 8 bit around a network on Y, bytes in HBM: split 3 + 12 a pixel of the input; join 4 + 3 and 8 / s s a
         pixel of the output, and about 100 FLOP: bound by HBM. Not measured on a GPU.

The rules are those of csrc/core/pixels: integers are divided by their largest value, exactly, and come back as
floor(levels clip(v) + 1/2). No product is contracted with a sum, so that pixels are the interpreter's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from . import resize_bicubic
from .common import empty
from .resize_bicubic import sample

BLOCK = 512
ROWS, COLUMNS, WARPS = 8, 64, 8
"""two pixels a thread: with four, 48 reads on their way do not fit into the registers"""
LEVELS = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 0}
"""what integers are divided by; 0: floats"""


@triton.jit
def color_split(
    x_ptr, matrix_ptr, net_ptr, rest_ptr, bad_ptr, pixels, width, sn, sh, sw, sc, low, high,
    C: tl.constexpr, NET: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    COLORS: tl.constexpr = C - (C + 1) % 2
    REST: tl.constexpr = C - NET if NET < COLORS else C - COLORS
    n = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pixels
    at = x_ptr + n * sn + (i // width).to(tl.int64) * sh + (i % width).to(tl.int64) * sw
    net = net_ptr + n * pixels * NET + i.to(tl.int64) * NET
    first = n * REST  # of the image's planes of rest
    rest = rest_ptr + first * pixels + i
    wrong = tl.zeros((BLOCK,), tl.int32)
    a = tl.load(at, mask=inside, other=0).to(tl.float32)
    if LEVELS > 0:
        a = tl.div_rn(a, LEVELS * 1.0)
    else:
        wrong += ((a >= low) & (a <= high)).to(tl.int32) ^ 1
    if COLORS == 3:
        b = tl.load(at + sc, mask=inside, other=0).to(tl.float32)
        c = tl.load(at + 2 * sc, mask=inside, other=0).to(tl.float32)
        if LEVELS > 0:
            b = tl.div_rn(b, LEVELS * 1.0)
            c = tl.div_rn(c, LEVELS * 1.0)
        else:
            wrong += ((b >= low) & (b <= high) & (c >= low) & (c <= high)).to(tl.int32) ^ 1
        if NET == 3:
            tl.store(net, a, mask=inside)
            tl.store(net + 1, b, mask=inside)
            tl.store(net + 2, c, mask=inside)
        else:
            tl.store(net, affine(matrix_ptr, a, b, c), mask=inside)
            tl.store(rest, affine(matrix_ptr + 4, a, b, c), mask=inside)
            tl.store(rest + pixels, affine(matrix_ptr + 8, a, b, c), mask=inside)
    elif NET == 3:
        for k in tl.static_range(NET):
            tl.store(net + k, a, mask=inside)
    else:  # gray is RGB of equal channels
        tl.store(net, affine(matrix_ptr, a, a, a), mask=inside)
    if C % 2 == 0:
        d = tl.load(at + (C - 1) * sc, mask=inside, other=0).to(tl.float32)
        if LEVELS > 0:
            d = tl.div_rn(d, LEVELS * 1.0)
        else:
            wrong += ((d >= low) & (d <= high)).to(tl.int32) ^ 1
        tl.store(rest_ptr + (first + REST - 1) * pixels + i, d, mask=inside)
    if LEVELS == 0:
        wrong = tl.max(tl.where(inside, wrong, 0), 0)
        tl.store(bad_ptr, 1, mask=wrong > 0)


@triton.jit
def color_join(
    net_ptr, rest_ptr, taps_ptr, matrix_ptr, y_ptr, bad_ptr, h, w, nn, nc, nh, nw, yn, yh, yw, yc,
    C: tl.constexpr, NET: tl.constexpr, S: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    COLORS: tl.constexpr = C - (C + 1) % 2
    REST: tl.constexpr = C - NET if NET < COLORS else C - COLORS
    n = tl.program_id(2).to(tl.int64)
    y = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    x = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (y < h * S) & (x < w * S)
    net = net_ptr + n * nn + y.to(tl.int64) * nh + x.to(tl.int64) * nw
    out = y_ptr + n * yn + y.to(tl.int64) * yh + x.to(tl.int64) * yw
    first = tl.zeros((ROWS, BLOCK), tl.int64) + n * REST  # of the image's planes of rest
    a = tl.load(net, mask=inside, other=0.0)
    finite = tl.abs(a) <= 3.4028234663852886e38  # false of NaN
    if NET == 3:
        b = tl.load(net + nc, mask=inside, other=0.0)
        c = tl.load(net + 2 * nc, mask=inside, other=0.0)
        finite = finite & (tl.abs(b) <= 3.4028234663852886e38) & (tl.abs(c) <= 3.4028234663852886e38)
        if COLORS == 1:
            a = tl.div_rn(a + b + c, 3.0)
    elif COLORS == 3:
        cb = sample(rest_ptr + first * h * w, taps_ptr, y, x, h, w, w, 1, inside, S, ROWS, BLOCK)
        cr = sample(rest_ptr + (first + 1) * h * w, taps_ptr, y, x, h, w, w, 1, inside, S, ROWS, BLOCK)
        v = a
        a = affine(matrix_ptr, v, cb, cr)
        b = affine(matrix_ptr + 4, v, cb, cr)
        c = affine(matrix_ptr + 8, v, cb, cr)
    else:
        a = a * 1.1643835616438356 - 0.0730593607305936  # 255 / 219, 16 / 219: gray is RGB without chroma
    finite = tl.min(tl.min(tl.where(inside, finite.to(tl.int32), 1), 1), 0)
    tl.store(bad_ptr + 1, 1, mask=finite == 0)
    tl.store(out, level(a, LEVELS).to(y_ptr.dtype.element_ty), mask=inside)
    if COLORS == 3:
        tl.store(out + yc, level(b, LEVELS).to(y_ptr.dtype.element_ty), mask=inside)
        tl.store(out + 2 * yc, level(c, LEVELS).to(y_ptr.dtype.element_ty), mask=inside)
    if C % 2 == 0:
        last = rest_ptr + (first + REST - 1) * h * w
        alpha = sample(last, taps_ptr, y, x, h, w, w, 1, inside, S, ROWS, BLOCK)
        tl.store(out + (C - 1) * yc, level(alpha, LEVELS).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def affine(row_ptr, a, b, c):
    """A row of the matrix times (a, b, c, 1)."""
    return tl.load(row_ptr) * a + tl.load(row_ptr + 1) * b + tl.load(row_ptr + 2) * c + tl.load(row_ptr + 3)


@triton.jit
def level(v, LEVELS: tl.constexpr):
    """Clipped to [0, 1]; of integers the nearest level."""
    v = tl.minimum(tl.maximum(v, 0.0), 1.0)
    if LEVELS > 0:
        v = (v * LEVELS + 0.5).to(tl.int32)
    return v


@dataclass(frozen=True)
class Packed:
    taps: torch.Tensor  # [s, 4] fp32, of resize_bicubic
    there: torch.Tensor  # [3, 4] fp32, RGB to YCbCr
    back: torch.Tensor
    net: int  # channels of the network
    scale: int


def pack(
    there: Sequence[Sequence[float]],  # [3, 4]: RGB to YCbCr, the offset last
    back: Sequence[Sequence[float]],
    net: int,
    scale: int,
    device: torch.device,
) -> Packed:
    taps = resize_bicubic.pack({}, {"scale": scale}, torch.float32, device).taps
    forth, home = (torch.tensor(m, dtype=torch.float32, device=device) for m in (there, back))
    return Packed(taps, forth, home, net, scale)


def split(
    packed: Packed,
    x: torch.Tensor,  # [N, H, W, C] uint8, uint16 or fp32, any strides
    bad: torch.Tensor,  # [2] int32: the first becomes 1 when a float lies outside of [low, high] or is NaN
    low: float,
    high: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # [N, 1 or 3, H, W] fp32, [N, K, H, W] fp32
    n, h, w, c = x.shape
    net = empty(n, packed.net, h, w, torch.float32, x.device)
    rest = torch.empty((n, _rest(c, packed.net), h, w), dtype=torch.float32, device=x.device)
    color_split[(triton.cdiv(h * w, BLOCK), n)](
        x, packed.there, net, rest, bad, h * w, w, *x.stride(), low, high,
        c, packed.net, LEVELS[x.dtype], BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return net, rest


def join(
    packed: Packed,
    net: torch.Tensor,  # [N, 1 or 3, s H, s W] fp32, any strides
    rest: torch.Tensor,  # [N, K, H, W] fp32, as split made it
    bad: torch.Tensor,  # [2] int32: the second becomes 1 when net holds NaN or infinity
    out: torch.Tensor,  # [N, s H, s W, C] uint8, uint16 or fp32, any strides
) -> None:
    n, hs, ws, c = out.shape
    h, w = hs // packed.scale, ws // packed.scale
    color_join[(triton.cdiv(hs, ROWS), triton.cdiv(ws, COLUMNS), n)](
        net, rest, packed.taps, packed.back, out, bad, h, w, *net.stride(), *out.stride(),
        c, packed.net, packed.scale, LEVELS[out.dtype], ROWS, COLUMNS, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def _rest(channels: int, net: int) -> int:
    """Channels beside the network: chroma where it reads Y of colours, and alpha."""
    return channels - 1 if net == 1 else channels % 2 ^ 1
