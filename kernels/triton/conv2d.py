# SPDX-License-Identifier: Apache-2.0
"""conv2d   t = w * act_in(x) + b;  y = act(t [+ r]) [+ r] or (t + r) (sigmoid(t) - 1/2)         k x k, stride 1

shapes   x [N, Ci, H, W], in one part or several, which are copied into one   w [Co, Ci, k, k]   b, slopes [Co]
         r, y [N, Co, H, W]
work     three kernels by width: conv_few for Co <= 4, conv_image for images (Ci <= 4, no activation before), else the
         implicit GEMM of conv_gemm
cost     see those files. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from . import conv_few, conv_gemm, conv_image
from .common import IMAGE, Config, capability, pixels_last, refuse_dtype

Packed = conv_few.Packed | conv_image.Packed | conv_gemm.Packed


def supports(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> str | None:
    co, ci, k, _ = shapes["w"]
    if co > IMAGE >= ci and (co > 256 or params.get("input_activation", "none") != "none"):
        return f"{ci} -> {co} channels with an activation before, or more than 256 of an image"
    if k > 15:
        return f"{k} x {k} is larger than 15 x 15"
    return refuse_dtype(dtype)


def pack(
    weights: Mapping[str, torch.Tensor],  # w [Co, Ci, k, k], b [Co] or none, fp32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    w, b, slopes = weights["w"], weights.get("b"), weights.get("slopes")
    if w.shape[0] <= IMAGE:
        return conv_few.pack(w, b, slopes, device)
    if w.shape[1] <= IMAGE:
        return conv_image.pack(w, b, None, None, params, dtype, device, slopes)
    return conv_gemm.pack(w, b, params, dtype, device, slopes)


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    if isinstance(packed, conv_gemm.Packed):
        return conv_gemm.candidates(packed.w.dtype, packed.ci, packed.co, capability(device))
    return conv_few.candidates(packed) if isinstance(packed, conv_few.Packed) else conv_image.candidates(packed)


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, C0, H, W]
    *others: torch.Tensor,  # `join` - 1 more parts of x [N, Ck, H, W], then the residual [N, Co, H, W] or none
    border: str = "zero",
    input_activation: str = "none",
    activation: str = "none",
    sum_inside: bool = False,
    gate: bool = False,
    slope: float = 0.0,
    join: int = 1,
    config: Config | None = None,
) -> torch.Tensor:  # [N, Co, H, W]
    residual = others[join - 1] if len(others) == join else None
    if join > 1:  # images among them are fp32 whatever the working dtype
        parts = (x, *others[: join - 1])
        dtype = min((part.dtype for part in parts), key=lambda d: d.itemsize)
        x = torch.cat([pixels_last(part).permute(0, 2, 3, 1).to(dtype) for part in parts], 3).permute(0, 3, 1, 2)
    how: dict[str, Any] = {"border": border, "activation": activation, "slope": slope, "config": config}
    how |= {"sum_inside": sum_inside, "gate": gate}
    if isinstance(packed, conv_image.Packed):
        residual = None if residual is None else pixels_last(residual)
        return conv_image.launch(packed, x, residual, **how)
    how |= {"input_activation": input_activation}
    if isinstance(packed, conv_few.Packed):
        return conv_few.launch(packed, x, residual, **how)
    return conv_gemm.launch(packed, x, residual, **how)


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
