# SPDX-License-Identifier: Apache-2.0
"""Tensor maps, by which the TMA engine of compute capability 9.0 copies boxes of a tensor to shared memory.

Only the driver knows their 128 bytes: libcuda's cuTensorMapEncodeTiled, found when the first map is made. Tests put an
encoder that an emulated engine reads in the place of `encode`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .compile import KernelError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

BYTES = 128
"""of a map, and what it is aligned to"""
KINDS = {"torch.float16": 6, "torch.bfloat16": 9}
"""CUtensorMapDataType"""
SWIZZLE_128 = 3
"""CU_TENSOR_MAP_SWIZZLE_128B: the 16-byte units of a row of 128 bytes, by the row's number modulo 8"""
PROMOTE_256 = 3
"""CU_TENSOR_MAP_L2_PROMOTION_L2_256B"""
ROW = 64
"""half floats of a row of a box: all that the swizzle takes"""


def of_pixels(x: Tensor, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Boxes [rows, columns, 64 channels] of an image of x [N, C, H, W] channels_last; coordinates are c, x, y, n.

    Raises KernelError for what no map can be made of, and without a driver.
    """
    n, c, h, w = x.shape
    return _map(x, (c, w, h, n), (2 * c, 2 * c * w, 2 * c * w * h), (ROW, columns, rows, 1))


def of_rows(t: Tensor, rows: int) -> np.ndarray[Any, Any]:
    """Boxes of `rows` rows of t [..., 64], which is contiguous; coordinates are 0 and the row. Raises KernelError."""
    return _map(t, (t.shape[-1], t.numel() // t.shape[-1]), (2 * t.shape[-1],), (ROW, rows))


def _map(
    t: Tensor,
    sizes: tuple[int, ...],  # innermost first
    strides: tuple[int, ...],  # bytes, of all but the innermost
    box: tuple[int, ...],
) -> np.ndarray[Any, Any]:
    """Checks what the driver's manual demands: what it says of a map that breaks a rule is CUDA_ERROR_INVALID_VALUE."""
    address = t.data_ptr()
    if str(t.dtype) not in KINDS:
        raise KernelError(f"a tensor map of {t.dtype}: takes {' and '.join(KINDS)}")
    if address % 16 or any(s % 16 or s >= 1 << 40 for s in strides):
        raise KernelError(
            f"a tensor map at {address:#x} with strides of {list(strides)} bytes: takes multiples of 16 below 2^40"
        )
    if not all(0 < size <= 1 << 32 for size in sizes) or not all(0 < b <= 256 for b in box):
        raise KernelError(f"a tensor map of sizes {list(sizes)} with boxes {list(box)}: takes 1 to 2^32 and 1 to 256")
    return encode(address, KINDS[str(t.dtype)], sizes, strides, box)


def buffer() -> np.ndarray[Any, Any]:
    """Zeros of a map's size and alignment: one element, which a kernel receives by value."""
    import numpy as np

    memory = np.zeros(2 * BYTES, np.uint8)
    begin = -memory.ctypes.data % BYTES
    return memory[begin : begin + BYTES].view(f"V{BYTES}")


def encode(
    address: int, kind: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]
) -> np.ndarray[Any, Any]:
    """Raises KernelError."""
    rank, out = len(sizes), buffer()
    code = _driver()(
        out.ctypes.data,
        kind,
        rank,
        address,
        (ctypes.c_uint64 * rank)(*sizes),
        (ctypes.c_uint64 * (rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*box),
        (ctypes.c_uint32 * rank)(*[1] * rank),  # every element
        0,  # not interleaved
        SWIZZLE_128,
        PROMOTE_256,
        0,  # zeros outside the tensor
    )
    if code:
        raise KernelError(
            f"cuTensorMapEncodeTiled failed with CUDA error {code} for sizes {list(sizes)}, strides {list(strides)} and "
            f"boxes {list(box)}"
        )
    return out


@functools.cache
def _driver() -> Any:
    """cuTensorMapEncodeTiled. Raises KernelError."""
    try:
        function = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    except (OSError, AttributeError) as error:
        raise KernelError(f"tensor maps need an NVIDIA driver of CUDA 12 or later ({error})") from None
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    function.argtypes = [
        *(pointer, ctypes.c_int, number, pointer, pointer, pointer, pointer, pointer),
        *[ctypes.c_int] * 4,
    ]
    function.restype = ctypes.c_int
    return function
