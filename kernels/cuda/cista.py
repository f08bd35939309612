# SPDX-License-Identifier: Apache-2.0
"""Launches cista.cu: z_0 = relu(w * y), then `steps` times z = relu(w * y + s * z), one launch each.

On compute capability 9.0 cista_wgmma.cu does the same with the same weights, by tiles of several sizes. Nobody has
measured it yet, so it is a candidate that tuning must first find faster, and as right; cista.cu is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import runtime, tensormap
from .compile import SHARED_BYTES, Instance, KernelError
from .layout import HALO_PIXELS, TILE, channel_order, tiles

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STAGES = 4
BLOCKS = (128, 64, 32, 16)
"""output channels of an item, the first that divides m0"""
CHUNKS = (64, 32, 16)
"""input channels in shared memory, the first that divides their number and fits"""

WGMMA = {"wgmma 16x128": (16, 128), "wgmma 8x256": (8, 256), "wgmma 16x64": (16, 64)}
"""candidate -> rows of 16 pixels and output channels of an item"""
WGMMA_ARCH = "sm_90a"
WGMMA_THREADS = 384
WGMMA_CHUNK = 64
PIXEL_SLOTS, MOST_WEIGHT_SLOTS = 3, 9  # of three taps each, and of one


@dataclass(frozen=True)
class Convolution:
    weights: Tensor  # [Co / block, Ci / chunk, 9, block, chunk]
    kernel: runtime.Kernel
    type_name: str

    @property
    def block(self) -> int:
        return self.weights.shape[3]

    def candidates(self, on: runtime.Device) -> list[str]:
        """Of WGMMA: those for the channels and the device."""
        channels_out = self.weights.shape[0] * self.block
        if on.arch != WGMMA_ARCH or self.weights.shape[4] != WGMMA_CHUNK:
            return []
        return [name for name, (_, n) in WGMMA.items() if channels_out % n == 0 and self.block == block_of(n)]


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
    if reason := runtime.excluded("cista") or runtime.not_half(dtype):
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


def block_of(channels: int) -> int:
    """Output channels of a block of weights where an item has so many."""
    return min(channels, BLOCKS[0])


def choose_wgmma(name: str, type_name: str, limit: int) -> tuple[Instance, int]:
    """The instance of a candidate for a device whose blocks may have `limit` bytes of shared memory, and its bytes."""
    rows, n = WGMMA[name]
    pixels, weights = (rows + 2) * TILE * WGMMA_CHUNK * 2, n * WGMMA_CHUNK * 2
    # To begin at a multiple of 1024, and barriers of 8 bytes; the other slots are for weights.
    fixed = 1024 + PIXEL_SLOTS * (pixels + 16)
    slots = min((limit - fixed) // (weights + 16), MOST_WEIGHT_SLOTS)
    if slots < 2:
        raise KernelError(f"cista by {name} needs {fixed + 2 * (weights + 16)} bytes of shared memory, not {limit}")
    sizes = {"ROWS": rows, "N": n, "BLOCK": block_of(n), "PIXEL_SLOTS": PIXEL_SLOTS, "WEIGHT_SLOTS": slots}
    instance = Instance("cista_wgmma", (("T", type_name), *sizes.items()), WGMMA_THREADS)
    return instance, fixed + slots * (weights + 16)


def instances(arch: str) -> list[Instance]:
    """Those of the shipped models: 64 and 128 channels in, 128, 256 and 1024 out, all by one instance of each kind."""
    limit, found = SHARED_BYTES[arch], []
    for type_name in ("Bf16", "Fp16"):
        found.append(choose(256, 256, type_name, limit)[0])
        if arch == WGMMA_ARCH:
            found += [choose_wgmma(name, type_name, limit)[0] for name, (_, n) in WGMMA.items() if n >= 128]
    return found


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
        type_name = runtime.type_name(dtype)
        instance, shared = choose(channels_in, channels_out, type_name, on.shared_bytes)
        sizes = dict(instance.defines)
        block, chunk = int(sizes["N"]), int(sizes["CHUNK"])
        parts = w.reshape(channels_out // block, block, channels_in // chunk, chunk, 9)
        ordered = parts[:, channel_order(block)].permute(0, 2, 4, 1, 3)
        return Convolution(ordered.to(device, dtype).contiguous(), runtime.load(instance, shared, on), type_name)

    m0, n0 = weights["w"].shape[:2]
    return Packed(convolution(weights["w"]), convolution(weights["s"]), (n0, m0), on)


def candidates(packed: Packed, device: torch.device) -> list[str]:
    """Values of launch's `config`, its default first."""
    return ["mma", *(name for name in packed.s.candidates(packed.on) if not runtime.excluded(f"cista/{name}"))]


def launch(
    packed: Packed,
    y: Tensor,  # [N, n0, H, W] channels_last
    *,
    steps: int,
    config: str | None = None,
) -> Tensor:  # [N, m0, H, W] channels_last
    """Raises KernelError for a y that does not fit the weights, and for a candidate that is none here."""
    import torch

    n0, m0 = packed.channels
    runtime.check_input("y", y, n0, packed.w.weights.dtype, packed.w.weights.device)
    known = candidates(packed, y.device)
    if config not in (None, *known):
        raise KernelError(f"cista by {config!r} on {packed.on.arch} and {m0} channels: takes {', '.join(known)}")
    y = runtime.aligned(y)
    n, _, h, w = y.shape

    def codes() -> Tensor:
        return torch.empty((n, m0, h, w), dtype=y.dtype, device=y.device, memory_format=torch.channels_last)

    fixed, z = codes(), codes()
    # w may have too few channels in.
    by = config if config in packed.w.candidates(packed.on) else None
    _convolve(packed.w, packed.on, by, y, None, z, fixed)
    other = codes() if steps else z
    for _ in range(steps):
        _convolve(packed.s, packed.on, config if config in WGMMA else None, z, fixed, other, None)
        z, other = other, z
    return z


def _convolve(
    by: Convolution,
    on: runtime.Device,
    config: str | None,  # of WGMMA
    x: Tensor,
    fixed: Tensor | None,
    out: Tensor,
    out_fixed: Tensor | None,
) -> None:
    n, channels_in, h, w = x.shape
    channels_out = out.shape[1]
    rest = (fixed, out, out_fixed, n, h, w, channels_in, channels_out)
    if config is None:
        items = tiles(n, h, w) * (channels_out // by.block)
        by.kernel(min(items, on.processors), runtime.arguments(x, by.weights, *rest))
        return
    rows, channels = WGMMA[config]
    instance, shared = choose_wgmma(config, by.type_name, on.shared_bytes)
    kernel = runtime.load(instance, shared, on)
    maps = tensormap.of_pixels(x, rows + 2, TILE), tensormap.of_rows(by.weights, by.block)
    items = tiles(n, h, w, rows) * (channels_out // channels)
    kernel(min(items, on.processors), runtime.arguments(*maps, *rest))


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
