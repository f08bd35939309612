# SPDX-License-Identifier: Apache-2.0
"""anchored_regression   out = base + mean over the 9 patches on a pixel of P_a f,  a = argmax |d_a . f|     paper 000, Eq. 5

shapes   x [N, 1, h, w]   base, out [N, 1, s h, s w] fp32   filters [f f, n']   atoms [4 n', A'] fp16   P [A, n', m']
         per patch (p = (h + 2) (w + 2) of an image): feature [n'] fp32, anchor, place: int32, detail [m m]
work     score    64 patches: f = windows . filters in fp32, then |f . d| against all atoms 64 at a time; per column the
                  largest and its block are kept, across columns they are compared once at the end
         begin    one program: how many patches each atom has -> where its tiles of `rows` patches begin
         place    each patch's number in the order of atoms
         project  one program = `rows` patches of one atom: [rows, n'] . [n', m'], P read once a tile
         combine  every pixel sums its 9 details in the order of their places, so that no order of programs shows
exact    scores are fp16 products of numbers split in two: f = f1 + f2, d = d1 + d2 (f scaled by a power of two to at most
         1), f1 d1 + f1 d2 + f2 d1, summed in fp32. What is left out is below 2^-21 |f| a score, as is the rounding of an
         fp32 sum over 30 products: anchors are fp32's, but where two scores differ by less than fp32 resolves. Equal
         atoms score equally, and the lowest index is taken.
cost     x3, a patch: features 4.9 kFLOP of fp32, scores 3 . 65.5 kFLOP of fp16, detail 4.9 kFLOP; HBM: 128 B of features,
         9 B of indices, m m details written and read (324 B in fp16), and 2 . 9 . 4 B of base and out. 1920 x 1080 has 0.23 M
         patches: 46 GFLOP, 0.12 GB. Nothing of size N x A or N x m x n exists. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from .common import Config, border_index, dot_precision, refuse_dtype, up

FLAT: tl.constexpr = tl.constexpr(2.0**-16)  # fastsr.ops.anchored_regression says why; tests/kernels holds them equal
SCORED = 64
BLOCK = 512
TILE = (4, 128)


@triton.jit
def score(
    x_ptr, filters_ptr, atoms_ptr, f_ptr, anchor_ptr, place_ptr, count_ptr, h, w, patches, sn, sh, sw,
    F: tl.constexpr, FP: tl.constexpr, N1: tl.constexpr, A: tl.constexpr, AP: tl.constexpr,
    BM: tl.constexpr, BA: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = F // 2
    p = tl.program_id(0) * BM + tl.arange(0, BM)
    valid = p < patches
    width = w + 2
    n = (p // (width * (h + 2))).to(tl.int64)
    # Patches lie on the pixels and on one ring around them.
    py = p // width % (h + 2) - 1
    px = p % width - 1
    r = tl.arange(0, N1)
    f = tl.zeros((BM, N1), tl.float32)
    for k0 in range(0, FP, BF):
        k = k0 + tl.arange(0, BF)
        sy = border_index(py[:, None] + (k // F - R)[None, :], h, 2).to(tl.int64)
        sx = border_index(px[:, None] + (k % F - R)[None, :], w, 2).to(tl.int64)
        at = x_ptr + n[:, None] * sn + sy * sh + sx * sw
        v = tl.load(at, mask=valid[:, None] & (k < F * F)[None, :], other=0.0).to(tl.float32)
        f = tl.dot(v, tl.load(filters_ptr + k[:, None] * N1 + r[None, :]), f, input_precision="ieee")
    most = tl.max(tl.abs(f), 1)
    f = tl.where((most >= FLAT)[:, None], f, 0.0)
    tl.store(f_ptr + p.to(tl.int64)[:, None] * N1 + r[None, :], f, mask=valid[:, None])
    # A power of two: scaling by it changes no digit.
    bits = most.to(tl.int32, bitcast=True) & 0x7F800000
    unit = (0x7F000000 - bits).to(tl.float32, bitcast=True) * 0.5
    g = f * tl.where(most >= FLAT, unit, 0.0)[:, None]
    g1 = g.to(tl.float16)
    g2 = (g - g1.to(tl.float32)).to(tl.float16)
    best = tl.full((BM, BA), -1.0, tl.float32)
    block = tl.zeros((BM, BA), tl.int32)
    a = tl.arange(0, BA)
    for a0 in range(0, AP, BA):
        d1 = tl.load(atoms_ptr + r[:, None] * AP + (a0 + a)[None, :])
        d2 = tl.load(atoms_ptr + (N1 + r)[:, None] * AP + (a0 + a)[None, :])
        s = tl.dot(g1, d2)
        s = tl.dot(g2, d1, s)
        s = tl.abs(tl.dot(g1, d1, s))
        # Columns after the last atom score 0, and lose to atom 0 by their index.
        more = s > best
        best = tl.where(more, s, best)
        block = tl.where(more, a0, block)
    top = tl.max(best, 1)
    anchor = tl.min(tl.where(best == top[:, None], block + a[None, :], AP), 1)
    tl.store(anchor_ptr + p, anchor, mask=valid)
    tl.store(place_ptr + p, tl.atomic_add(count_ptr + anchor, 1, mask=valid), mask=valid)


@triton.jit
def begin(count_ptr, tile_ptr, A: tl.constexpr, AP: tl.constexpr, ROWS: tl.constexpr):
    """tile_ptr[a]: the first tile of atom a; tile_ptr[A'] : how many tiles there are."""
    a = tl.arange(0, AP)
    tiles = (tl.load(count_ptr + a, mask=a < A, other=0) + ROWS - 1) // ROWS
    ends = tl.cumsum(tiles, 0)
    tl.store(tile_ptr + a, ends - tiles)
    tl.store(tile_ptr + AP + a * 0, tl.sum(tiles, 0), mask=a == 0)


@triton.jit
def place(anchor_ptr, place_ptr, tile_ptr, order_ptr, patches, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """order_ptr[row of its tile] = patch."""
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = p < patches
    tile = tl.load(tile_ptr + tl.load(anchor_ptr + p, mask=valid, other=0), mask=valid, other=0)
    tl.store(order_ptr + tile * ROWS + tl.load(place_ptr + p, mask=valid, other=0), p, mask=valid)


@triton.jit
def project(
    f_ptr, projections_ptr, order_ptr, tile_ptr, count_ptr, detail_ptr,
    N1: tl.constexpr, MM: tl.constexpr, MP: tl.constexpr, AP: tl.constexpr, ROWS: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    if tile < tl.load(tile_ptr + AP):
        # The last atom whose tiles begin at or before this one; atoms without patches begin where the next does.
        a = tl.arange(0, AP)
        atom = tl.sum((tl.load(tile_ptr + a) <= tile).to(tl.int32), 0) - 1
        row = tl.arange(0, ROWS)
        left = tl.load(count_ptr + atom) - (tile - tl.load(tile_ptr + atom)) * ROWS
        valid = row < left
        p = tl.load(order_ptr + tile * ROWS + row, mask=valid, other=0).to(tl.int64)
        r = tl.arange(0, N1)
        f = tl.load(f_ptr + p[:, None] * N1 + r[None, :], mask=valid[:, None], other=0.0)
        for m0 in range(0, MP, BN):
            m = m0 + tl.arange(0, BN)
            w = tl.load(projections_ptr + (atom.to(tl.int64) * N1 + r)[:, None] * MP + m[None, :])
            detail = tl.dot(f.to(w.dtype), w, input_precision=PRECISION)
            mask = valid[:, None] & (m < MM)[None, :]
            tl.store(detail_ptr + p[:, None] * MM + m[None, :], detail.to(detail_ptr.dtype.element_ty), mask=mask)


@triton.jit
def combine(detail_ptr, base_ptr, y_ptr, h, w, sn, sh, sw, S: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(2).to(tl.int64)
    y = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    x = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    valid = (y < h * S) & (x < w * S)
    MM: tl.constexpr = 9 * S * S
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for j in tl.static_range(3):
        for i in tl.static_range(3):
            # Of the patch j cells down this pixel lies in cell 2 - j.
            p = (n * (h + 2) + y // S + j) * (w + 2) + x // S + i
            at = ((2 - j) * S + y % S) * (3 * S) + (2 - i) * S + x % S
            total += tl.load(detail_ptr + p * MM + at, mask=valid, other=0.0).to(tl.float32)
    base = tl.load(base_ptr + n * sn + y.to(tl.int64) * sh + x.to(tl.int64) * sw, mask=valid, other=0.0).to(tl.float32)
    tl.store(y_ptr + (n * h * S + y) * (w * S) + x, base + total * (1.0 / 9.0), mask=valid)


@dataclass(frozen=True)
class Packed:
    filters: torch.Tensor  # [f f', n'] fp32
    atoms: torch.Tensor  # [2 n', A'] fp16: leading and trailing half
    projections: torch.Tensor  # [A, n', m'] working dtype
    size: int  # f
    precision: str


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    n1, atoms = shapes["filters"][0], shapes["atoms"][0]
    if n1 > 64 or atoms > 4096:
        return f"{n1} features and {atoms} atoms are more than 64 and 4096"
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor],  # filters [n, f, f], atoms [A, n], projections [A, m m, n] fp32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    filters, atoms, projections = (weights[k].to(device).float() for k in ("filters", "atoms", "projections"))
    n1, size, _ = filters.shape
    np2 = max(16, triton.next_power_of_2(n1))
    count, mm, _ = projections.shape
    ap, mp = max(64, triton.next_power_of_2(count)), max(16, triton.next_power_of_2(mm))
    f = torch.zeros((up(size * size, 32), np2), device=device)
    f[: size * size, :n1] = filters.reshape(n1, -1).T
    d = torch.zeros((2 * np2, ap), dtype=torch.float16, device=device)
    d[:n1, :count] = atoms.T.half()
    d[np2 : np2 + n1, :count] = (atoms.T - atoms.T.half().float()).half()
    w = torch.zeros((count, np2, mp), dtype=dtype, device=device)
    w[:, :n1, :mm] = projections.transpose(1, 2).to(dtype)
    return Packed(f, d, w, size, dot_precision(dtype, params))


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    """rows: patches of a tile of one atom; n: columns of a projection at once."""
    n = min(packed.projections.shape[2], 128 if packed.projections.dtype != torch.float32 else 32)
    return [Config(rows, 1, n, 16, 4, 2) for rows in (16, 32, 64)]


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Bytes per patch, of which a pixel of x has one and a few."""
    return 4 * 64 + 16 + shapes["projections"][1] * size


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, 1, h, w]
    base: torch.Tensor,  # [N, 1, s h, s w]
    *,
    scale: int,
    config: Config | None = None,
) -> torch.Tensor:  # [N, 1, s h, s w] fp32
    n, _, h, w = x.shape
    patches = n * (h + 2) * (w + 2)
    c = config or candidates(packed, x.device)[0]
    count, n1, mp = packed.projections.shape
    ap, mm = packed.atoms.shape[1], 9 * scale**2
    ints: dict[str, Any] = {"dtype": torch.int32, "device": x.device}
    f = torch.empty((patches, n1), device=x.device)
    detail = torch.empty((patches, mm), dtype=packed.projections.dtype, device=x.device)
    anchor, number, counts, first = (torch.empty(k, **ints) for k in (patches, patches, ap, ap + 1))
    # Every atom's last tile may be nearly empty.
    tiles = patches // c.rows + min(count, patches)
    order = torch.empty(tiles * c.rows, **ints)
    out = torch.empty((n, 1, h * scale, w * scale), device=x.device)
    counts.zero_()
    score[(triton.cdiv(patches, SCORED),)](
        x, packed.filters, packed.atoms, f, anchor, number, counts, h, w, patches, x.stride(0), x.stride(2),
        x.stride(3), packed.size, packed.filters.shape[0], n1, count, ap, SCORED, 64, 32, num_warps=4,
    )  # fmt: skip
    begin[(1,)](counts, first, count, ap, c.rows, num_warps=4)
    place[(triton.cdiv(patches, BLOCK),)](anchor, number, first, order, patches, c.rows, BLOCK)
    project[(tiles,)](
        f, packed.projections, order, first, counts, detail, n1, mm, mp, ap, c.rows, c.n, packed.precision, **c.how
    )
    combine[(triton.cdiv(h * scale, TILE[0]), triton.cdiv(w * scale, TILE[1]), n)](
        detail, base, out, h, w, base.stride(0), base.stride(2), base.stride(3), scale, *TILE
    )
    return out
