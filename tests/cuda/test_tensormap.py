# SPDX-License-Identifier: Apache-2.0
"""Tensor maps: what the driver is asked for, against a libcuda that writes it down, and what is refused before."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import tensormap  # noqa: E402
from fastsr.kernels.cuda.compile import KernelError  # noqa: E402

# The signature is that of cuda.h, which the compiler checks where the toolkit is.
DRIVER = r"""
#if __has_include(<cuda.h>)
#include <cuda.h>
#else
typedef int CUresult, CUtensorMapDataType, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill;
typedef unsigned cuuint32_t;
typedef unsigned long cuuint64_t;
typedef struct { cuuint64_t opaque[16]; } CUtensorMap;
#endif
#include <stdint.h>

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType kind, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  if ((uintptr_t)map % 128 || interleave || fill || rank > 4) return (CUresult)1;
  if (sizes[0] == 8) return (CUresult)801;
  cuuint64_t* to = (cuuint64_t*)map;
  *to++ = (cuuint64_t)kind | (cuuint64_t)rank << 8 | (cuuint64_t)swizzle << 16 | (cuuint64_t)promotion << 24;
  *to++ = (cuuint64_t)address;
  for (cuuint32_t i = 0; i < rank; ++i) *to++ = sizes[i];
  for (cuuint32_t i = 0; i + 1 < rank; ++i) *to++ = strides[i];
  for (cuuint32_t i = 0; i < rank; ++i) *to++ = (cuuint64_t)box[i] | (cuuint64_t)steps[i] << 32;
  return (CUresult)0;
}
"""
TOOLKIT = "/usr/local/cuda/include"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("no gcc")
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{TOOLKIT}", str(source), "-o", str(library)], check=True)
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: load(str(library) if name == "libcuda.so.1" else name))
    tensormap._driver.cache_clear()
    yield
    tensormap._driver.cache_clear()


def words(found: Any) -> list[int]:
    assert found.size == 1
    assert found.itemsize == tensormap.BYTES
    assert found.ctypes.data % tensormap.BYTES == 0
    return [int(v) for v in found.view(np.uint64)]


def test_a_map_of_pixels(driver: None) -> None:
    x = torch.zeros(2, 192, 5, 7, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    assert words(tensormap.of_pixels(x, 18, 16)) == [
        *(9 | 4 << 8 | 3 << 16 | 3 << 24, x.data_ptr()),
        *(192, 7, 5, 2),
        *(384, 384 * 7, 384 * 35),
        *(one | 1 << 32 for one in (64, 16, 18, 1)),
        0,
        *[0] * 2,
    ]


def test_a_map_of_rows(driver: None) -> None:
    t = torch.zeros(2, 3, 9, 128, 64, dtype=torch.float16)
    found = words(tensormap.of_rows(t, 128))
    assert found[:7] == [6 | 2 << 8 | 3 << 16 | 3 << 24, t.data_ptr(), 64, 6912, 128, 64 | 1 << 32, 128 | 1 << 32]


def test_what_breaks_a_rule_is_refused(driver: None) -> None:
    with pytest.raises(KernelError, match=r"a tensor map of torch.float32: takes torch.float16 and torch.bfloat16"):
        tensormap.of_rows(torch.zeros(4, 64), 4)
    with pytest.raises(KernelError, match=r"strides of \[24\] bytes: takes multiples of 16"):
        tensormap.of_rows(torch.zeros(4, 12, dtype=torch.float16), 4)
    with pytest.raises(KernelError, match=r"with boxes \[64, 257\]"):
        tensormap.of_rows(torch.zeros(4, 64, dtype=torch.float16), 257)
    with pytest.raises(KernelError, match=r"failed with CUDA error 801 for sizes \[8, 4\]"):
        tensormap.of_rows(torch.zeros(4, 8, dtype=torch.float16), 4)


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    tensormap._driver.cache_clear()
    with pytest.raises(KernelError, match=r"need an NVIDIA driver of CUDA 12 or later \(libcuda.so.1: cannot open"):
        tensormap.of_rows(torch.zeros(4, 64, dtype=torch.float16), 4)


@pytest.mark.gpu
def test_the_driver_takes_them(gpu: Any) -> None:
    if torch.cuda.get_device_capability(gpu)[0] < 9:
        pytest.skip("no TMA")
    x = torch.zeros(1, 64, 3, 3, dtype=torch.float16, device=gpu).to(memory_format=torch.channels_last)
    assert any(words(tensormap.of_pixels(x, 18, 16)))
