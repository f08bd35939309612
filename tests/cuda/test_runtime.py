# SPDX-License-Identifier: Apache-2.0
"""Loading and launching through cupy, against a cupy and a torch.cuda that only write down what they are asked."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import compile, runtime  # noqa: E402
from fastsr.kernels.cuda.compile import Instance, KernelError  # noqa: E402

INSTANCE = Instance("cista", (("T", "Bf16"), ("CHUNK", 64), ("N", 128), ("STAGES", 4)))


class Recorder:
    """A cupy whose kernels are called by nobody."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cuda = SimpleNamespace(
            Device=self.entered("device"), Stream=SimpleNamespace(from_external=self.entered("stream"))
        )

    def entered(self, name: str) -> Any:
        calls = self.calls

        class Context:
            def __init__(self, *args: Any) -> None:
                self.args = args

            def __enter__(self) -> None:
                calls.append((name, *self.args))

            def __exit__(self, *_: object) -> None:
                calls.append(f"end of {name}")

        return Context

    def RawModule(self, path: str) -> Any:
        if "missing" in path:
            raise OSError("no such cubin")

        class Function:
            max_dynamic_shared_size_bytes = 0

            def __call__(kernel, *args: Any, **named: Any) -> None:
                self.calls.append((kernel.max_dynamic_shared_size_bytes, args, named))

        return SimpleNamespace(get_function=lambda name: Function() if name == "cista" else None)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "cupy", recorder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=700 + index))
    monkeypatch.setattr(runtime, "cubin", lambda instance, arch: f"/{arch}.cubin")
    return recorder


def test_a_kernel_runs_on_torch_s_stream_with_its_shared_memory(cupy: Recorder) -> None:
    kernel = runtime.load(INSTANCE, 1234, runtime.Device(1, "sm_90a", 132, 227 << 10))
    assert cupy.calls == [("device", 1), "end of device"]
    cupy.calls.clear()
    x = torch.zeros(4)
    kernel(7, runtime.arguments(x, None, 3, 0.5))
    (device, stream, (shared, (grid, block, args), named), *_) = cupy.calls
    assert device == ("device", 1)
    assert stream[1].__cuda_stream__() == (0, 701)
    assert (shared, grid, block, named) == (1234, (7,), (256,), {"shared_mem": 1234})
    assert [(type(a), a) for a in args] == [
        (np.uintp, x.data_ptr()), (np.uintp, 0), (np.int32, 3), (np.float32, 0.5)
    ]  # fmt: skip


def test_an_instance_has_its_threads_and_structures_go_by_value(cupy: Recorder) -> None:
    instance = Instance("cista", INSTANCE.defines, 384)
    kernel = runtime.load(instance, 10, runtime.Device(0, "sm_90a", 132, 227 << 10))
    cupy.calls.clear()
    structure = np.zeros(1, "V128")
    kernel(2, runtime.arguments(structure, 5))
    assert cupy.calls[2][1] == ((2,), (384,), (structure, np.int32(5)))


def test_a_cubin_that_does_not_load_is_named(cupy: Recorder) -> None:
    with pytest.raises(KernelError, match=r"cannot load /missing.cubin on device 0: no such cubin; delete the file"):
        runtime.load(INSTANCE, 1, runtime.Device(0, "missing", 1, 1))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(major: int, minor: int) -> runtime.Device:
        properties = SimpleNamespace(major=major, minor=minor, multi_processor_count=132, name="a GPU")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        runtime.device.cache_clear()
        return runtime.device(torch.device("cuda", 0))

    assert ask(9, 0) == runtime.Device(0, "sm_90a", 132, 227 << 10)
    assert ask(8, 0).arch == "sm_80"
    assert ask(10, 0).arch == "sm_100"
    assert ask(12, 7).shared_bytes == compile.LEAST_SHARED_BYTES
    with pytest.raises(KernelError, match=r"a GPU: the CUDA kernels need compute capability 8.0, not 7.5"):
        ask(7, 5)
    with pytest.raises(KernelError, match="device cpu is not a CUDA device"):
        runtime.device(torch.device("cpu"))
    runtime.device.cache_clear()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    assert runtime.unavailable() == "torch sees no CUDA device"
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "pip install 'fastsr[gpu]'" in str(runtime.unavailable())
    with pytest.raises(KernelError, match=r"fastsr\[gpu\]"):
        runtime.load(INSTANCE, 2, runtime.Device(0, "sm_90a", 1, 1))


def test_an_input_of_too_many_pixels_is_refused() -> None:
    x = torch.zeros(1, dtype=torch.float16).expand(2, 16, 1 << 15, 1 << 15)
    with pytest.raises(KernelError, match="31 bits; run it in tiles"):
        runtime.check_input("x", x, 16, torch.float16, torch.device("cpu"))
    runtime.check_input("x", x[:1], 16, torch.float16, torch.device("cpu"))
