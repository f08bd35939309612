# SPDX-License-Identifier: Apache-2.0
"""conv2d   y = act(w * act_in(x) + b [+ r]) [+ r]         k x k, stride 1; zero, replicate or symmetric border

shapes   x [N, Ci, H, W]   w [Co, Ci, k, k]   b [Co]   r, y [N, Co, H, W]
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
    w, b = weights["w"], weights.get("b")
    if w.shape[0] <= IMAGE:
        return conv_few.pack(w, b, dtype, device)
    if w.shape[1] <= IMAGE:
        return conv_image.pack(w, b, None, None, params, dtype, device)
    return conv_gemm.pack(w, b, params, dtype, device)


def candidates(packed: Packed, device: torch.device) -> list[Config]:
    if isinstance(packed, conv_gemm.Packed):
        return conv_gemm.candidates(packed.w.dtype, packed.ci, packed.co, capability(device))
    return conv_few.candidates(packed) if isinstance(packed, conv_few.Packed) else conv_image.candidates(packed)


def launch(
    packed: Packed,
    x: torch.Tensor,  # [N, Ci, H, W]
    residual: torch.Tensor | None = None,  # [N, Co, H, W]
    *,
    border: str = "zero",
    input_activation: str = "none",
    activation: str = "none",
    sum_inside: bool = False,
    slope: float = 0.0,
    config: Config | None = None,
) -> torch.Tensor:  # [N, Co, H, W]
    how: dict[str, Any] = {"border": border, "activation": activation, "slope": slope, "config": config}
    if isinstance(packed, conv_image.Packed):
        residual = None if residual is None else pixels_last(residual)
        return conv_image.launch(packed, x, residual, inside=sum_inside, **how)
    how |= {"input_activation": input_activation, "sum_inside": sum_inside}
    if isinstance(packed, conv_few.Packed):
        return conv_few.launch(packed, x, residual, **how)
    return conv_gemm.launch(packed, x, residual, **how)


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
