# SPDX-License-Identifier: Apache-2.0
"""Runs the launchers of kernels/cuda on CPU tensors: g++ builds a kernel through cuda_emu.h, ctypes calls it.

What a launcher allocates is poisoned, and lies, as its inputs do, between guards that no kernel may touch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from fastsr.kernels.cuda import compile as build  # noqa: E402
from fastsr.kernels.cuda import runtime, tensormap  # noqa: E402

HERE = Path(__file__).parent
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
GUARD = 4096  # bytes before and behind a tensor; 0xff is NaN in every type


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--emulation-flags", default="-O2", help="of g++, in a run of tests/cuda by itself")


class EmulationError(RuntimeError):
    """What the emulator found wrong with a kernel."""


def no_emulation() -> str | None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the emulation switches fibers in x86-64 assembly, on Linux"
    return None if shutil.which("g++") else "no g++ to build the emulation with"


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fastsr-emulation-"))


@functools.cache
def library(source: str, entry: str, options: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    """`source` as a shared library whose fastsr_emulate runs the kernel `entry`."""
    name = hashlib.sha256(repr((source, entry, options, flags)).encode()).hexdigest()[:16]
    file, path = folder() / f"{name}.cu", folder() / f"{name}.so"
    file.write_text(source)
    result = subprocess.run(
        [
            *("g++", "-x", "c++", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),
            *(*flags, "-DFASTSR_CUDA_EMU", f"-I{build.HERE}", "-include", str(HERE / "cuda_emu.h")),
            *(f'-DFASTSR_SOURCE="{file}"', f"-DFASTSR_ENTRY={entry}", *options),
            *(str(HERE / "emulate.cpp"), "-o", str(path)),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return path


def by_value(argument: runtime.Argument) -> np.ndarray[Any, Any]:
    """Memory that holds it, aligned as a tensor map must be."""
    value = np.asarray(argument)
    memory = tensormap.buffer().view(np.uint8)
    memory[: value.nbytes] = np.frombuffer(value.tobytes(), np.uint8)
    return memory


def tensor_map(
    address: int, kind: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]
) -> np.ndarray[Any, Any]:
    """A tensor map as hopper_emu.h reads it (emu::Map)."""
    rank, out = len(sizes), tensormap.buffer()
    fill = (0,) * (4 - rank)
    packed = struct.pack(
        "<QQII4Q4Q4I",
        *(0x464153545352, address, rank, tensormap.SWIZZLE_128),
        *(*sizes, *fill),
        *(2, *strides, *fill),
        *(*box, *(1,) * (4 - rank)),
    )
    out.view(np.uint8)[: len(packed)] = np.frombuffer(packed, np.uint8)
    return out


def call(path: Path, blocks: int, threads: int, shared: int, order: str, arguments: Sequence[runtime.Argument]) -> None:
    """Run a kernel. Raises EmulationError."""
    emulate = ctypes.CDLL(str(path)).fastsr_emulate
    emulate.restype = ctypes.c_char_p
    values = [by_value(a) for a in arguments]
    addresses = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
    fault = emulate(blocks, 1, 1, threads, ctypes.c_size_t(shared), ORDERS[order], addresses)
    if fault:
        raise EmulationError(fault.decode())


class Guarded:
    """Tensors of NaN between guards."""

    def __init__(self) -> None:
        self.memory: list[tuple[Any, int]] = []

    def empty(self, size: Sequence[int], dtype: Any = None, memory_format: Any = None, **_: Any) -> Any:
        dtype = dtype or torch.get_default_dtype()
        size = tuple(size)
        bytes_ = int(np.prod(size)) * dtype.itemsize
        memory = torch.full((bytes_ + 2 * GUARD + 64,), 0xFF, dtype=torch.uint8)
        begin = GUARD + -(memory.data_ptr() + GUARD) % 64
        self.memory.append((memory, begin + bytes_))
        values = memory[begin : begin + bytes_].view(dtype)
        if memory_format is torch.channels_last:
            n, c, h, w = size
            return values.view(n, h, w, c).permute(0, 3, 1, 2)
        return values.view(size)

    def empty_like(self, t: Any, memory_format: Any = None) -> Any:
        last = t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last)
        return self.empty(t.shape, t.dtype, memory_format or (torch.channels_last if last else None))

    def copy(self, t: Any) -> Any:
        last = t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last)
        return self.empty(t.shape, t.dtype, torch.channels_last if last else None).copy_(t)

    def check(self) -> None:
        for memory, end in self.memory:
            begin = GUARD + -(memory.data_ptr() + GUARD) % 64
            if not bool((memory[:begin] == 0xFF).all() and (memory[end:] == 0xFF).all()):
                raise EmulationError("a kernel wrote beside a tensor")


class Emulation:
    """A GPU in the place of kernels/cuda/runtime.py's, with few processors: a block takes several tiles."""

    def __init__(self, patch: pytest.MonkeyPatch, flags: str) -> None:
        self.patch = patch
        self.arch = "sm_80"
        self.order = "forward"
        self.flags = tuple(flags.split())
        self.change: Callable[[str], str] = lambda source: source
        patch.setattr(runtime, "device", self.device)
        patch.setattr(runtime, "load", self.load)
        patch.setattr(tensormap, "encode", tensor_map)

    def device(self, where: Any) -> runtime.Device:
        return runtime.Device(0, self.arch, 2, build.SHARED_BYTES[self.arch])

    def load(self, instance: build.Instance, shared: int, on: runtime.Device) -> runtime.Kernel:
        assert shared <= on.shared_bytes
        source = self.change((build.HERE / f"{instance.source}.cu").read_text())
        path = library(source, instance.source, instance.options, self.flags)
        return lambda blocks, arguments: call(path, blocks, instance.threads, shared, self.order, arguments)

    def run(self, kernel: ModuleType, weights: Mapping[str, Any], dtype: Any, *inputs: Any, **params: Any) -> Any:
        """The launcher's output, guards intact."""
        packed = kernel.pack(weights, params, dtype, torch.device("cpu"))
        guarded = Guarded()
        taken = [guarded.copy(t) for t in inputs]
        with self.patch.context() as patch:
            patch.setattr(torch, "empty", guarded.empty)
            patch.setattr(torch, "empty_like", guarded.empty_like)
            out = kernel.launch(packed, *taken, **params)
        guarded.check()
        for before, after in zip(inputs, taken, strict=True):
            assert torch.equal(before, after), "a kernel changed its input"
        return out


@pytest.fixture
def emulation(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Emulation:
    if reason := no_emulation():
        pytest.skip(reason)
    return Emulation(monkeypatch, request.config.getoption("--emulation-flags", "-O2"))


@pytest.fixture
def emulate() -> Callable[..., None]:
    """emulate(source, entry, threads, shared, order, arguments) runs one block of any kernel."""
    if reason := no_emulation():
        pytest.skip(reason)

    def run(source: str, entry: str, threads: int, shared: int, order: str, arguments: Sequence[np.generic]) -> None:
        call(library(source, entry, (), ("-O1",)), 1, threads, shared, order, arguments)

    return run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The CUDA device of the tests that are marked `gpu`; torch's fp32 is fp32 there."""
    kernel = request.path.stem.removeprefix("test_")
    if reason := runtime.unavailable() or runtime.excluded(kernel):
        pytest.skip(reason)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    return torch.device("cuda", torch.cuda.current_device())
