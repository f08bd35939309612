# SPDX-License-Identifier: Apache-2.0
"""Devices, and kernels loaded on them. Tests put an emulation in the place of `device` and `load`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .compile import LEAST_SHARED_BYTES, SHARED_BYTES, Instance, KernelError, cubin

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    Argument = np.generic | np.ndarray[Any, Any]
    """a scalar, or a structure: an array of one element, which cupy passes by value"""

LEAST = (8, 0)
"""compute capability: mma of half floats and cp.async"""

EXCLUDE = "FASTSR_EXCLUDE"
"""environment variable: kernels ("pconv_block") and candidates ("cista/wgmma 8x256") that may not run, with ; between.
A kernel that hangs can only be left out by who knows it: bench/gpu.sh, which first tries each in a process of its own"""

MOST_PIXELS = 2**31
"""of a batch"""

Kernel = Callable[[int, "Sequence[Argument]"], None]
"""kernel(blocks, arguments) launches on torch's current stream; block size and shared memory are its own"""


@dataclass(frozen=True)
class Device:
    """What a launcher asks of a GPU."""

    index: int
    arch: str
    processors: int
    shared_bytes: int  # that one block may have


@dataclass(frozen=True)
class Stream:
    """A stream of torch as the CUDA stream protocol has it, which its own class does not speak in older versions."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self.pointer)


def unavailable() -> str | None:
    """None, or why no CUDA kernel can run on this machine."""
    try:
        import cupy  # noqa: F401
        import torch
    except ImportError as error:
        return f"the CUDA kernels need torch and cupy: pip install 'fastsr[gpu]' ({error})"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


@functools.cache
def device(where: torch.device) -> Device:
    """Raises KernelError where `where` is no CUDA device that the kernels run on."""
    import torch

    if where.type != "cuda":
        raise KernelError(f"device {where} is not a CUDA device")
    index = torch.cuda.current_device() if where.index is None else where.index
    properties = torch.cuda.get_device_properties(index)
    if reason := too_old((properties.major, properties.minor)):
        raise KernelError(f"{properties.name}: {reason}")
    arch = architecture(properties.major, properties.minor)
    return Device(index, arch, properties.multi_processor_count, SHARED_BYTES.get(arch, LEAST_SHARED_BYTES))


def architecture(major: int, minor: int) -> str:
    return f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")


def too_old(capability: tuple[int, int]) -> str | None:
    if capability < LEAST:
        return f"the CUDA kernels need compute capability {LEAST[0]}.{LEAST[1]}, not {capability[0]}.{capability[1]}"
    return None


@functools.cache
def load(instance: Instance, shared: int, on: Device) -> Kernel:
    """The kernel of an instance on a device, whose blocks use `shared` bytes. Raises KernelError."""
    if reason := unavailable():
        raise KernelError(reason)
    import cupy
    import torch

    path = cubin(instance, on.arch)
    try:
        with cupy.cuda.Device(on.index):
            function = cupy.RawModule(path=str(path)).get_function(instance.source)
            function.max_dynamic_shared_size_bytes = shared
    except Exception as error:  # cupy raises errors of its driver and runtime layers
        raise KernelError(f"cannot load {path} on device {on.index}: {error}; delete the file to rebuild it") from error

    def launch(blocks: int, arguments: Sequence[Argument]) -> None:
        stream = Stream(torch.cuda.current_stream(on.index).cuda_stream)
        with cupy.cuda.Device(on.index), cupy.cuda.Stream.from_external(stream):
            function((blocks,), (instance.threads,), tuple(arguments), shared_mem=shared)

    return launch


def arguments(*values: Tensor | int | float | np.ndarray[Any, Any] | None) -> list[Argument]:
    """As the kernels take them: tensors and None as pointers, int as 32 bits, float as fp32, tensor maps by value."""
    import numpy as np

    found: list[Argument] = []
    for value in values:
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, int):
            found.append(np.int32(value))
        elif isinstance(value, float):
            found.append(np.float32(value))
        else:
            found.append(np.uintp(0 if value is None else value.data_ptr()))
    return found


def aligned(t: Tensor) -> Tensor:
    """`t` in channels_last order from an address that vectors can be loaded from; itself where it is so already."""
    import torch

    t = t.contiguous(memory_format=torch.channels_last)
    return t if t.data_ptr() % 16 == 0 else t.clone(memory_format=torch.channels_last)


def check_input(name: str, t: Tensor, channels: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises KernelError unless `t` is [N, channels, H, W] of the type and on the device of the packed weights."""
    if t.ndim != 4 or t.shape[1] != channels or t.dtype != dtype or t.device != device or not t.numel():
        raise KernelError(
            f"{name} is {t.dtype} {list(t.shape)} on {t.device}, not {dtype} [N, {channels}, H, W] on {device}"
        )
    if t.numel() // channels >= MOST_PIXELS:
        raise KernelError(f"{name} is {list(t.shape)}: the kernels count pixels in 31 bits; run it in tiles")


def excluded(name: str) -> str | None:
    """Why a kernel or a candidate may not run, where the environment says so."""
    return f"{EXCLUDE} names {name}" if name in os.environ.get(EXCLUDE, "").split(";") else None


def type_name(dtype: torch.dtype) -> str:
    """The name of a torch type in common.cuh."""
    return {"torch.bfloat16": "Bf16", "torch.float16": "Fp16", "torch.float32": "Fp32"}[str(dtype)]


def not_half(dtype: torch.dtype) -> str | None:
    known = ("torch.bfloat16", "torch.float16")
    return None if str(dtype) in known else f"computes in bfloat16 and float16, not {dtype}"


def slope_of(params: Mapping[str, Any]) -> float:
    """act(v) = v above 0, slope * v below: all activations that conv2d has."""
    activation = params.get("activation", "relu")
    return {"none": 1.0, "relu": 0.0, "leaky_relu": float(params.get("slope", 0.0))}[activation]
