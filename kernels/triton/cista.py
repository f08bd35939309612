# SPDX-License-Identifier: Apache-2.0
"""cista   w = Wl * y;  z = relu(w);  K times z = relu(w + S * z)                                paper 004, Eq. 10 and 12

shapes   y [N, H, W, n0]   Wl [9, n0, m0]   S [9, m0, m0]   w, z [N, H, W, m0]       working dtype, sums in fp32
work     1 + K launches of conv_gemm: w once, then the recursions with + w and relu in the epilogue. The first recursion
         reads relu(w), which is not stored; the others go to and fro between two buffers; S is packed once
fp8      (params["fp8"] = y of a sample image) S and the z of all recursions but the first's and the last's in e4m3, S
         scaled by output channel, z by one power of two from the sample; w, the sums and the last z as ever. The
         recursion contracts: it forgets what z was rounded to, and only the rounding of S stays.
cost     18 m0 m0 K FLOP a pixel; HBM reads 2 m0 (z, w) and writes m0 numbers a pixel and recursion: with m0 = 256 in
         fp16 29.5 MFLOP and 38.4 kB in 25 recursions, 768 FLOP a byte: bound by products. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import conv_gemm
from .common import E4M3, Config, capability, e4m3_scale, empty, refuse_dtype, refuse_e4m3

NARROW = 8  # of fewer channels a padded product is mostly zeros


@dataclass(frozen=True)
class Packed:
    w: conv_gemm.Packed
    s: conv_gemm.Packed
    s8: conv_gemm.Packed | None  # e4m3
    z_scale: float


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    m0, n0 = shapes["w"][:2]
    if min(m0, n0) < NARROW:
        return f"{n0} -> {m0} channels are too few for matrix products"
    return refuse_dtype(dtype) or refuse_e4m3(params, m0)


def pack(
    weights: Mapping[str, torch.Tensor],  # w [m0, n0, k, k], s [m0, m0, k, k] fp32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    w = conv_gemm.pack(weights["w"], None, params, dtype, device)
    s = conv_gemm.pack(weights["s"], None, params, dtype, device)
    if "fp8" not in params:
        return Packed(w, s, None, 1.0)
    z_scale = e4m3_scale(_largest(weights, params["fp8"], params["steps"]))
    return Packed(w, s, conv_gemm.pack_e4m3(weights["s"], z_scale, device), z_scale)


def _largest(weights: Mapping[str, torch.Tensor], y: torch.Tensor, steps: int) -> torch.Tensor:
    """The largest number of each z on a sample."""
    w, s = (weights[role].to(y) for role in ("w", "s"))
    r = w.shape[-1] // 2
    fixed = torch.nn.functional.conv2d(y, w, padding=r)
    found = [fixed.relu()]
    for _ in range(steps):
        found.append((fixed + torch.nn.functional.conv2d(found[-1], s, padding=s.shape[-1] // 2)).relu())
    return torch.stack([z.max() for z in found])


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    s = packed.s8 or packed.s
    return conv_gemm.candidates(s.w.dtype, s.ci, s.co, capability(device))


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
    out = empty(n, m0, h, w, dtype, y.device)
    # z goes to and fro between two buffers, of which the output is one unless they are e4m3.
    if packed.s8:
        buffers = [empty(n, m0, h, w, E4M3, y.device) for _ in range(2)]
    else:
        buffers = [out, empty(n, m0, h, w, dtype, y.device)]
    z, before = fixed, "relu"
    for left in reversed(range(steps)):
        s = packed.s8 if packed.s8 and z is not fixed else packed.s
        z = conv_gemm.launch(
            s,
            z,
            fixed,
            buffers[left % 2] if left else out,
            input_activation=before,
            activation="relu",
            sum_inside=True,
            y_scale=packed.z_scale,
            config=config if s is (packed.s8 or packed.s) else None,
        )
        before = "none"
    return z
