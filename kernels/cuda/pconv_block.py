# SPDX-License-Identifier: Apache-2.0
"""Launches pconv_block.cu: out = x + w3 * act(w1 * act(x) + b1) + b3 in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import runtime
from .compile import SHARED_BYTES, Instance, KernelError
from .layout import HALO_PIXELS, channel_order, tile_channels, tiles

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STAGES = 4
"""slots of the ring: with 4 (138 KB at 128-64) three loads are under way while one step computes"""


@dataclass(frozen=True)
class Packed:
    w1: Tensor  # [C / chunk, M, chunk]
    b1: Tensor  # [M] f32
    w3: Tensor  # [9, C, M]
    b3: Tensor  # [C] f32
    on: runtime.Device
    kernel: runtime.Kernel


def supports(
    params: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],  # of the weights, by role
    dtype: torch.dtype,
) -> str | None:
    """None, or why the kernel does not run the step."""
    m, c = shapes["w1"][:2]
    if reason := runtime.excluded("pconv_block") or runtime.not_half(dtype):
        return reason
    if not tile_channels(c) or m % 16 or m > 64:
        return (
            f"{c}-{m} channels: takes up to 64 of them in multiples of 16, and 96 or 128 outside the block; the sums of "
            "a tile of more do not fit the registers"
        )
    return None


def chunk(c: int) -> int:
    """Channels of x that a step brings."""
    return 32 if c % 32 == 0 else 16


def slot_bytes(c: int, m: int) -> int:
    return max((HALO_PIXELS + m) * chunk(c) * 2, c * m * 2)


def choose(c: int, m: int, type_name: str, limit: int) -> tuple[Instance, int]:
    """The instance for a device whose blocks may have `limit` bytes of shared memory, and the bytes it uses."""
    inner = HALO_PIXELS * m * 2
    stages = min(STAGES, (limit - inner) // slot_bytes(c, m))
    if stages < 2:
        raise KernelError(
            f"pconv_block {c}-{m} needs {inner + 2 * slot_bytes(c, m)} bytes of shared memory, not {limit}"
        )
    instance = Instance("pconv_block", (("T", type_name), ("C", c), ("M", m), ("STAGES", stages)))
    return instance, inner + stages * slot_bytes(c, m)


def instances(arch: str) -> list[Instance]:
    """Those of the shipped models."""
    return [choose(128, 64, name, SHARED_BYTES[arch])[0] for name in ("Bf16", "Fp16")]


def pack(
    weights: Mapping[str, Tensor],  # w1 [M, C, 1, 1], w3 [C, M, 3, 3], b1 [M] and b3 [C] or absent; f32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    """Weights in the kernel's order on the device, and the kernel. Raises KernelError."""
    import torch

    w1, w3 = weights["w1"], weights["w3"]
    m, c = w1.shape[:2]
    on = runtime.device(device)
    k = chunk(c)
    first = w1.reshape(m, c // k, k)[channel_order(m)].transpose(0, 1)
    taps = w3.reshape(c, m, 9)[channel_order(c)].permute(2, 0, 1)

    def bias(role: str, n: int) -> Tensor:
        b = weights.get(role)
        return torch.zeros(n, device=device) if b is None else b.to(device, torch.float32).contiguous()

    instance, shared = choose(c, m, runtime.type_name(dtype), on.shared_bytes)
    return Packed(
        first.to(device, dtype).contiguous(),
        bias("b1", m),
        taps.to(device, dtype).contiguous(),
        bias("b3", c),
        on,
        runtime.load(instance, shared, on),
    )


def launch(
    packed: Packed,
    x: Tensor,  # [N, C, H, W] channels_last
    **params: Any,
) -> Tensor:  # [N, C, H, W] channels_last
    """Raises KernelError for an x that does not fit the weights."""
    import torch

    c = packed.w3.shape[1]
    runtime.check_input("x", x, c, packed.w1.dtype, packed.w1.device)
    x = runtime.aligned(x)
    n, _, h, w = x.shape
    out = torch.empty_like(x, memory_format=torch.channels_last)
    arguments = runtime.arguments(x, packed.w1, packed.b1, packed.w3, packed.b3, out, n, h, w, runtime.slope_of(params))
    packed.kernel(min(tiles(n, h, w), packed.on.processors), arguments)
    return out


def candidates(packed: Packed, device: torch.device) -> tuple[()]:
    """There is one configuration."""
    return ()


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
