# SPDX-License-Identifier: Apache-2.0
"""Launches anchored_regression.cu: features, anchors, details and their sum in one pass over the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import runtime
from .compile import Instance, KernelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS, COLUMNS = 16, 24  # patches of a tile
FEATURES = 32  # room for n1
CHUNK = 64  # atoms in shared memory at once
STAGES = 3
SCALES = (2, 3, 4)
MOST_ATOMS = 4096
LARGEST_FILTER = 13
TYPES = ("torch.float32", "torch.bfloat16", "torch.float16")


@dataclass(frozen=True)
class Packed:
    filters: Tensor  # [F * F, 32] f32
    atoms: Tensor  # [A / 64, 2, 64, 32] f16: high and low halves
    projections: Tensor  # [A, 9, s * s, 32] f16 or f32
    dtype: torch.dtype  # of images
    scale: int
    on: runtime.Device
    kernel: runtime.Kernel


def supports(
    params: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],  # of the weights, by role
    dtype: torch.dtype,
) -> str | None:
    """None, or why the kernel does not run the step."""
    atoms, features = shapes["atoms"]
    if reason := runtime.excluded("anchored_regression"):
        return reason
    if str(dtype) not in TYPES:
        return f"takes images of float32, bfloat16 and float16, not {dtype}"
    if params["scale"] not in SCALES:
        return f"scale {params['scale']}: the kernel is for 2, 3 and 4"
    if features > FEATURES:
        return f"{features} features: takes up to {FEATURES}"
    if atoms > MOST_ATOMS:
        return f"{atoms} atoms: takes up to {MOST_ATOMS}"
    if shapes["filters"][-1] > LARGEST_FILTER:
        return f"filters of {shapes['filters'][-1]} pixels: takes up to {LARGEST_FILTER}"
    return None


def shared_bytes(scale: int, filter_size: int, atoms: int) -> int:
    patches = ROWS * COLUMNS
    window = (filter_size**2 * FEATURES + (ROWS + filter_size - 1) * (COLUMNS + filter_size - 1)) * 4
    ring = STAGES * 2 * CHUNK * FEATURES * 2
    cells = (ROWS - 2) * (COLUMNS - 2) * scale * scale * 4
    share = -(-max(window, ring, cells) // 128) * 128
    return patches * (FEATURES + 4) * 4 + share + (2 * patches + 8 + atoms) * 4


def choose(scale: int, filter_size: int, type_name: str, projection: str) -> Instance:
    defines = (("T", type_name), ("P", projection), ("SCALE", scale), ("FILTER", filter_size))
    return Instance("anchored_regression", defines)


def instances(arch: str) -> list[Instance]:
    """Those of the shipped models, which hold projections as half floats."""
    return [choose(scale, 9, name, "Fp16") for scale in SCALES for name in ("Fp32", "Bf16", "Fp16")]


def pack(
    weights: Mapping[str, Tensor],  # filters [n1, F, F], atoms [A, n1], projections [A, 9 s^2, n1]; f32
    params: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Packed:
    """Weights in the kernel's order on the device, and the kernel. Raises KernelError."""
    import torch

    scale = int(params["scale"])
    filters, atoms, projections = (weights[role].float().cpu() for role in ("filters", "atoms", "projections"))
    count, features = atoms.shape
    rounded = -(-count // CHUNK) * CHUNK
    size = filters.shape[-1]
    on = runtime.device(device)

    spread = torch.zeros(size * size, FEATURES)
    spread[:, :features] = filters.reshape(features, -1).T

    # One power of two for all atoms: neither an anchor nor a tie changes.
    largest = torch.frexp(atoms.abs().max())[1]
    d = torch.zeros(rounded, FEATURES)
    d[:count, :features] = torch.ldexp(atoms, 1 - largest)
    high = d.half()
    halves = torch.stack((high, (d - high.float()).half())).reshape(2, -1, CHUNK, FEATURES).transpose(0, 1)

    # The pixels of a patch, 3s x 3s, by cell.
    cells = projections.reshape(count, 3, scale, 3, scale, features).transpose(2, 3)
    p = torch.zeros(count, 9, scale * scale, FEATURES)
    p[..., :features] = cells.reshape(count, 9, scale * scale, features)
    exact = bool((p.half().float() == p).all())

    instance = choose(scale, size, runtime.type_name(dtype), "Fp16" if exact else "Fp32")
    shared = shared_bytes(scale, size, rounded)
    if shared > on.shared_bytes:
        raise KernelError(f"anchored_regression needs {shared} bytes of shared memory, not {on.shared_bytes}")
    return Packed(
        spread.to(device),
        halves.contiguous().to(device),
        (p.half() if exact else p).to(device),
        dtype,
        scale,
        on,
        runtime.load(instance, shared, on),
    )


def launch(
    packed: Packed,
    x: Tensor,  # [N, 1, h, w]
    base: Tensor,  # [N, 1, h * scale, w * scale]
    **params: Any,
) -> Tensor:  # [N, 1, h * scale, w * scale]
    """Raises KernelError for images that do not fit each other or the weights."""
    import torch

    s = packed.scale
    for name, image in (("x", x), ("base", base)):
        runtime.check_input(name, image, 1, packed.dtype, packed.filters.device)
    n, _, h, w = x.shape
    if base.shape != (n, 1, h * s, w * s):
        raise KernelError(f"base is {list(base.shape)}, not {[n, 1, h * s, w * s]}")
    x, base = x.contiguous(), base.contiguous()
    out = torch.empty_like(base)
    blocks = n * -(-h // (ROWS - 2)) * -(-w // (COLUMNS - 2))
    weights = (packed.filters, packed.atoms, packed.projections)
    packed.kernel(blocks, runtime.arguments(x, base, *weights, out, n, h, w, packed.atoms.shape[0] * CHUNK))
    return out


def candidates(packed: Packed, device: torch.device) -> tuple[()]:
    """There is one configuration."""
    return ()


def scratch(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
    """Nothing is held beside inputs and output."""
    return 0
