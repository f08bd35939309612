# SPDX-License-Identifier: Apache-2.0
"""Pictures larger than memory: a strip of rows at a time goes through the network, and the result is that of the whole.

A strip is read with what its rows depend on above and below, and begins at a row that is a multiple of what kernels cut at,
so that every pixel is made by the same operations as in the whole picture. A Winograd convolution makes blocks of up to 6
rows, of which each rounds with what the whole block reads: what a result depends on to the last bit is up to 6 times the
radius within which its value depends on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator

import numpy as np

from fastsr._core import PIXEL_REACH

ALIGN = 48
"""rows: Winograd's blocks are of 2, 4 and 6 output rows, and of 16 where two of these are fused"""
BLOCK = 6
LEAST = 48
"""rows of a strip, where memory allows no more"""

Rows = Callable[[int, int], np.ndarray]
"""[begin, end) of the input's rows; begin never decreases"""


def halo(radius: int, alpha: bool) -> int:
    """Rows around a strip that its result depends on."""
    return BLOCK * radius + PIXEL_REACH + (radius + PIXEL_REACH if alpha else 0)


def enlarged(
    upscale: Callable[[np.ndarray], np.ndarray], rows: Rows, height: int, each: int, around: int
) -> Iterator[np.ndarray]:
    """The result from top to bottom. each: rows of the input at a time."""
    for begin in range(0, height, each):
        end = min(begin + each, height)
        top = max(0, begin - around) // ALIGN * ALIGN
        bottom = min(height, end + around)
        made = upscale(rows(top, bottom))
        scale = made.shape[0] // (bottom - top)
        yield made[(begin - top) * scale : (end - top) * scale]


def in_sequence(read: Callable[[int], np.ndarray]) -> Rows:
    """Rows out of a reader that gives the next `count`: those that are asked for twice are kept."""
    kept: list[np.ndarray] = []
    first = 0  # row number of the first that is kept

    def rows(begin: int, end: int) -> np.ndarray:
        nonlocal kept, first
        have = first + sum(map(len, kept))
        if end > have:
            kept.append(read(end - have))
        whole = kept[0] if len(kept) == 1 else np.concatenate(kept)
        whole = whole[begin - first :]
        kept, first = [whole], begin
        return whole[: end - begin]

    return rows


def resident() -> int:
    """Bytes of memory that this process holds."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 80_000_000


def give_back_freed() -> None:
    """Have freed blocks of 256 kB and more go back to the system at once.

    glibc raises the size from which it maps blocks on their own each time such a block is freed (up to 32 MB), and keeps
    smaller ones: a process that enlarges strip after strip held 20 to 45 MB that nothing used. To set the size ends that.
    Elsewhere there is no such call, and nothing is done.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(mmap_threshold, 1 << 18)


def per_strip(budget: int, row: int, scale: int, around: int) -> int:
    """Rows of a strip whose images take `budget` bytes: `row` bytes of input, read twice and copied, and its result."""
    cost = row * (3 + 3 * scale * scale)
    rows = budget // max(1, cost) - 2 * around
    return max(LEAST, min(rows // ALIGN * ALIGN, 1 << 16))


def engine_share(limit: int, base: int) -> int:
    """Bytes of a process's limit that the network may hold; the rest is for images."""
    return max((limit - base) // 2, min(limit, 64_000_000))


def needed(base: int, given: int, scale: int, engine_bytes: int) -> int:
    """Bytes of the process for a picture of `given` bytes that is read, enlarged and written whole."""
    return base + 3 * given + given * scale * scale + 16_000_000 + engine_bytes
