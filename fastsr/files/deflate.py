# SPDX-License-Identifier: Apache-2.0
"""Deflate in parallel strips: each ends with a full flush, so that together they are one stream."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

fast: Any
try:  # Intel's ISA-L is four times as fast as zlib, for 10 % more bytes
    from isal import isal_zlib

    fast = isal_zlib
except ImportError:  # no wheel for this machine
    fast = zlib

LEVEL = 1
STRIP = 1 << 19
"""bytes of a strip before compression: an eighth of what a 4K picture has, and 16 windows"""


def compress(data: Any, last: bool) -> bytes:
    """Raw deflate of one strip."""
    packer: Any = fast.compressobj(LEVEL, fast.DEFLATED, -15)
    return bytes(packer.compress(data)) + bytes(packer.flush(fast.Z_FINISH if last else fast.Z_FULL_FLUSH))


def whole(data: Any) -> bytes:
    """A zlib stream."""
    return bytes(fast.compress(data, LEVEL))


def in_order(work: Callable[[Any], Any], items: Iterable[Any], pool: ThreadPoolExecutor, ahead: int) -> Iterator[Any]:
    """work(item) of each, `ahead` of them at once, no more in memory."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def adler32(data: Any, value: int) -> int:
    return int(fast.adler32(data, value))


def crc32(data: Any, value: int = 0) -> int:
    return int(fast.crc32(data, value))
