# SPDX-License-Identifier: Apache-2.0
"""cista   w = Wl * y;  z = relu(w);  K times z = relu(w + S * z)                                paper 004, Eq. 10 and 12

shapes   y [N, H, W, n0]   Wl [9, n0, m0]   S [9, m0, m0]   w, z [N, H, W, m0]       working dtype, sums in fp32
work     1 + K launches of conv_gemm: w once, then the recursions with + w and relu in the epilogue. The first recursion
         reads relu(w), which is not stored; the others go to and fro between two buffers; S is packed once
cost     18 m0 m0 K FLOP a pixel; HBM reads 2 m0 (z, w) and writes m0 numbers a pixel and recursion: with m0 = 256 in
         fp16 29.5 MFLOP and 38.4 kB in 25 recursions, 768 FLOP a byte: bound by products. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import conv_gemm
from .common import Config, capability, empty, refuse_dtype

NARROW = 8  # of fewer channels a padded product is mostly zeros


@dataclass(frozen=True)
class Packed:
    w: conv_gemm.Packed
    s: conv_gemm.Packed


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    m0, n0 = shapes["w"][:2]
    if min(m0, n0) < NARROW:
        return f"{n0} -> {m0} channels are too few for matrix products"
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor],  # w [m0, n0, k, k], s [m0, m0, k, k] fp32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    return Packed(
        conv_gemm.pack(weights["w"], None, params, dtype, device),
        conv_gemm.pack(weights["s"], None, params, dtype, device),
    )


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    return conv_gemm.candidates(packed.s.w.dtype, packed.s.ci, packed.s.co, capability(device))


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Bytes per pixel beside input and output: w and the second buffer."""
    return 2 * shapes["w"][0] * size


def launch(
    packed: Packed,
    y: torch.Tensor,  # [N, n0, H, W]
    *,
    steps: int,
    config: Config | None = None,
) -> torch.Tensor:  # [N, m0, H, W]
    n, _, h, w = y.shape
    m0, dtype = packed.s.co, packed.s.w.dtype
    if steps == 0:
        return conv_gemm.launch(packed.w, y, activation="relu")
    fixed = empty(n, m0, h, w, dtype, y.device)
    conv_gemm.launch(packed.w, y, out=fixed)
    buffers = [empty(n, m0, h, w, dtype, y.device) for _ in range(min(steps, 2))]
    z, before = fixed, "relu"
    for i in range(steps):
        z = conv_gemm.launch(
            packed.s,
            z,
            fixed,
            buffers[i % 2],
            input_activation=before,
            activation="relu",
            sum_inside=True,
            config=config,
        )
        before = "none"
    return z
