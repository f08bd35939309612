# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels share: dtypes, sizes, activations, borders, offsets, the shape of a tuning candidate.

Runs on Triton 3.6 and 3.9: plain pointers, module-level helpers, no block pointers. Sums are fp32 everywhere. Offsets are
a 64-bit scalar per program plus 32-bit ones inside its tile, so that images may hold more than 2^31 numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Triton 3.10 turns contraction off unless it is asked for; a * b + c in one rounding is what all tests are run with.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
import triton.language as tl

NONE, RELU, LEAKY, SILU, SIGMOID, TANH = range(6)
ACTIVATIONS = {"none": NONE, "relu": RELU, "leaky_relu": LEAKY, "silu": SILU, "sigmoid": SIGMOID, "tanh": TANH}
ZERO, REPLICATE, SYMMETRIC = 0, 1, 2
BORDERS = {"zero": ZERO, "replicate": REPLICATE, "symmetric": SYMMETRIC}
OUTSIDE, INSIDE, GATE = 1, 2, 3  # a residual added after the activation, or before it; (t + r) (sigmoid(t) - 1/2)
IMAGE = 4
"""values of at most so many channels are images, fp32 in every precision"""
WORKING = (torch.float32, torch.float16, torch.bfloat16)
E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""of e4m3, whose numbers have 4 bits from 2^-6 on"""
HEADROOM = 8.0
"""how far an image's values may lie above those of the sample that scales come from; beyond it they saturate"""


@dataclass(frozen=True)
class Config:
    """One way to launch a kernel: rows, columns and output channels of a tile, depth of a product, warps, stages."""

    rows: int
    columns: int
    n: int
    k: int
    warps: int
    stages: int

    @property
    def how(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


STANDS_FOR = 90
"""the GPU that a CPU stands for, in the interpreter and ahead of time (bench/aot.py)"""


def capability(device: torch.device) -> int:
    """80, 90, 100."""
    if device.type != "cuda":
        return STANDS_FOR
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def processors(device: torch.device) -> int:
    """Streaming multiprocessors; 2 in the interpreter, so that persistent programs take several tiles in tests."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def dot_precision(dtype: torch.dtype, params: Mapping[str, Any]) -> str:
    """`input_precision` of tl.dot: it matters for fp32 only."""
    return "tf32" if dtype == torch.float32 and params.get("tf32") else "ieee"


def refuse_e4m3(params: Mapping[str, Any], *channels: int) -> str | None:
    """Why products that are asked for in e4m3 cannot be."""
    odd = [c for c in channels if c % 16]
    return f"{odd[0]} channels: e4m3 takes multiples of 16" if "fp8" in params and odd else None


def e4m3_scale(sample: torch.Tensor) -> float:
    """The power of two that a tensor is divided by to become e4m3."""
    largest = float(sample.abs().max())
    return 2.0 ** math.ceil(math.log2(largest * HEADROOM / LARGEST)) if largest > 0 else 1.0


def as_e4m3(x: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """x / scale in e4m3, saturated."""
    return (x / scale).clamp(-LARGEST, LARGEST).to(E4M3)


def weights_e4m3(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [Co, Ci, k, k] as e4m3, and what each output channel was divided by [Co]."""
    scale = w.abs().amax((1, 2, 3)) / LARGEST
    scale = torch.where(scale > 0, scale, 1.0)
    return as_e4m3(w, scale[:, None, None, None]), scale


def refuse_dtype(dtype: torch.dtype) -> str | None:
    return None if dtype in WORKING else f"dtype {dtype} is not fp32, fp16 or bf16"


def out_dtype(channels: int, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if channels <= IMAGE else dtype


def empty(n: int, c: int, h: int, w: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[N, C, H, W] with the channels of a pixel together."""
    return torch.empty((n, h, w, c), dtype=dtype, device=device).permute(0, 3, 1, 2)


def pixels_last(x: torch.Tensor) -> torch.Tensor:
    """x itself where the channels of a pixel lie together, else a copy that has them so."""
    _, c, h, w = x.shape
    return x if x.stride() == (h * w * c, 1, w * c, c) else x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def as_bias(b: torch.Tensor | None, channels: int, device: torch.device) -> torch.Tensor | None:
    """fp32, zeros after its end up to `channels`."""
    if b is None:
        return None
    out = torch.zeros(channels, dtype=torch.float32, device=device)
    out[: b.numel()] = b.to(device)
    return out


def how_residual(residual: torch.Tensor | None, sum_inside: bool, gate: bool) -> int:
    return 0 if residual is None else GATE if gate else INSIDE if sum_inside else OUTSIDE


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@triton.jit
def act(x, ACT: tl.constexpr, slope):
    """The activation of fp32; `slope` may be a tensor that broadcasts."""
    if ACT == 1:
        x = tl.maximum(x, 0.0)
    elif ACT == 2:
        x = tl.where(x >= 0, x, x * slope)
    elif ACT == 3:
        x = x * tl.sigmoid(x)
    elif ACT == 4:
        x = tl.sigmoid(x)
    elif ACT == 5:
        x = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    return x


@triton.jit
def ended(t, r, ACT: tl.constexpr, RESIDUAL: tl.constexpr, slope):
    """A sum with its residual and activation."""
    if RESIDUAL == 0:
        t = act(t, ACT, slope)
    elif RESIDUAL == 1:
        t = act(t, ACT, slope) + r
    elif RESIDUAL == 2:
        t = act(t + r, ACT, slope)
    else:
        t = (t + r) * (tl.sigmoid(t) - 0.5)
    return t


@triton.jit
def act_as(x, ACT: tl.constexpr, slope):
    """The activation of fp32, rounded to x's own dtype again (exact for relu)."""
    if ACT == 0:
        return x
    return act(x.to(tl.float32), ACT, slope).to(x.dtype)


@triton.jit
def stored_as(x, times, dtype: tl.constexpr):
    """fp32 in the type of an output; e4m3 is scaled, and saturates."""
    if dtype == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x * times, -448.0), 448.0)
    return x.to(dtype)


@triton.jit
def border_index(i, n, BORDER: tl.constexpr):
    """Where index i of n is read from; under the zero border i itself, which the caller masks."""
    if BORDER == 1:
        i = tl.minimum(tl.maximum(i, 0), n - 1)
    elif BORDER == 2:
        i = i % (2 * n)
        i = tl.where(i < 0, i + 2 * n, i)  # the remainder has the sign of i
        i = tl.where(i < n, i, 2 * n - 1 - i)
    return i
