# SPDX-License-Identifier: Apache-2.0
"""Launches cista.cu: z_0 = relu(w * y), then `steps` times z = relu(w * y + s * z), one launch each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import runtime
from .compile import Instance, KernelError
from .layout import HALO_PIXELS, channel_order, tiles

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STAGES = 4
BLOCKS = (128, 64, 32, 16)
"""output channels of an item, the first that divides m0"""
CHUNKS = (64, 32, 16)
"""input channels in shared memory, the first that divides their number and fits"""


@dataclass(frozen=True)
class Convolution:
    weights: Tensor  # [Co / block, Ci / chunk, 9, block, chunk]
    kernel: runtime.Kernel


@dataclass(frozen=True)
class Packed:
    w: Convolution
    s: Convolution
    channels: tuple[int, int]  # n0, m0
    on: runtime.Device


def supports(
    params: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],  # of the weights, by role
    dtype: torch.dtype,
) -> str | None:
    """None, or why the kernel does not run the step."""
    m0, n0, *size = shapes["w"]
    if reason := runtime.not_half(dtype):
        return reason
    if size != [3, 3] or tuple(shapes["s"][2:]) != (3, 3):
        return f"{size[0]} x {size[1]} filters: the kernel is for 3 x 3"
    if n0 % 16 or m0 % 16:
        return f"{n0} and {m0} channels: takes multiples of 16"
    return None


def shared_bytes(chunk: int, block: int) -> int:
    return 2 * HALO_PIXELS * chunk * 2 + STAGES * block * chunk * 2


def choose(channels_in: int, channels_out: int, type_name: str, limit: int) -> tuple[Instance, int]:
    """The instance for a device whose blocks may have `limit` bytes of shared memory, and the bytes it uses."""
    block = next(n for n in BLOCKS if channels_out % n == 0)
    for chunk in CHUNKS:
        shared = shared_bytes(chunk, block)
        if channels_in % chunk == 0 and shared <= limit:
            defines = (("T", type_name), ("CHUNK", chunk), ("N", block), ("STAGES", STAGES))
            return Instance("cista", defines), shared
    raise KernelError(f"cista needs {shared_bytes(CHUNKS[-1], block)} bytes of shared memory, not {limit}")


def instances(limit: int) -> list[Instance]:
    """Those of the shipped models: 64 and 128 channels in, 256 and 1024 out, all by one instance."""
    return [choose(256, 256, name, limit)[0] for name in ("Bf16", "Fp16")]


def pack(
    weights: Mapping[str, Tensor],  # w [m0, n0, 3, 3], s [m0, m0, 3, 3]; f32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    """Weights in the kernel's order on the device, and the kernels. Raises KernelError."""
    on = runtime.device(device)

    def convolution(w: Tensor) -> Convolution:
        channels_out, channels_in = w.shape[:2]
        instance, shared = choose(channels_in, channels_out, runtime.type_name(dtype), on.shared_bytes)
        sizes = dict(instance.defines)
        block, chunk = int(sizes["N"]), int(sizes["CHUNK"])
        parts = w.reshape(channels_out // block, block, channels_in // chunk, chunk, 9)
        ordered = parts[:, channel_order(block)].permute(0, 2, 4, 1, 3)
        return Convolution(ordered.to(device, dtype).contiguous(), runtime.load(instance, shared, on))

    m0, n0 = weights["w"].shape[:2]
    return Packed(convolution(weights["w"]), convolution(weights["s"]), (n0, m0), on)


def launch(
    packed: Packed,
    y: Tensor,  # [N, n0, H, W] channels_last
    **params: Any,
) -> Tensor:  # [N, m0, H, W] channels_last
    """Raises KernelError for a y that does not fit the weights."""
    import torch

    n0, m0 = packed.channels
    runtime.check_input("y", y, n0, packed.w.weights.dtype, packed.w.weights.device)
    y = runtime.aligned(y)
    n, _, h, w = y.shape

    def codes() -> Tensor:
        return torch.empty((n, m0, h, w), dtype=y.dtype, device=y.device, memory_format=torch.channels_last)

    def convolve(by: Convolution, x: Tensor, fixed: Tensor | None, out: Tensor, out_fixed: Tensor | None) -> None:
        block = by.weights.shape[3]
        items = tiles(n, h, w) * (m0 // block)
        arguments = runtime.arguments(x, by.weights, fixed, out, out_fixed, n, h, w, x.shape[1], m0)
        by.kernel(min(items, packed.on.processors), arguments)

    fixed, z = codes(), codes()
    convolve(packed.w, y, None, z, fixed)
    other = codes() if params["steps"] else z
    for _ in range(params["steps"]):
        convolve(packed.s, z, fixed, other, None)
        z, other = other, z
    return z
