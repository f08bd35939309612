# SPDX-License-Identifier: Apache-2.0
"""Any size: the network enlarges by whole factors, bicubic does what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fastsr import _core
from fastsr.errors import InputError
from fastsr.files.picture import Frame


@dataclass(frozen=True)
class Wish:
    """The size that a result is to have. At most one is given; none: as the network makes it."""

    times: float | None = None
    size: tuple[int, int] | None = None  # width, height; 0: by the other
    side: int | None = None  # the longer one, at most

    def of(self, width: int, height: int, scale: int) -> tuple[int, int]:
        """(width, height) of the result for such an input."""
        if self.times is not None:
            return max(1, round(width * self.times)), max(1, round(height * self.times))
        if self.size is not None:
            w, h = self.size
            return w or max(1, round(width * h / height)), h or max(1, round(height * w / width))
        if self.side is not None and max(width, height) * scale > self.side:
            times = self.side / max(width, height)
            return max(1, round(width * times)), max(1, round(height * times))
        return width * scale, height * scale

    @property
    def any(self) -> bool:
        return self.times is not None or self.size is not None or self.side is not None


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """ "1920x1080", or a side alone: "1920x" or "x1080"."""
    w, x, h = text.lower().partition("x")
    if x != "x" or not (w.isdecimal() or not w) or not (h.isdecimal() or not h) or not (w or h):
        raise InputError(f"{option} {text} is not WIDTHxHEIGHT, for example 640x360, 1920x or x1080")
    size = int(w or 0), int(h or 0)
    if (w and not size[0]) or (h and not size[1]) or max(size) > 1 << 20:
        raise InputError(f"{option} {text} is not a size from 1 to {1 << 20}")
    return size


def passes(width: int, height: int, target: tuple[int, int], scale: int) -> int:
    """Times that the network runs, one after the other, until its result is at least as large."""
    count, factor = 1, scale
    while scale > 1 and (width * factor < target[0] or height * factor < target[1]) and count < 8:
        count, factor = count + 1, factor * scale
    return count


def fitted(frame: Frame, size: tuple[int, int], again: Callable[[np.ndarray], np.ndarray]) -> Frame:
    """The network's result in exactly that size. again: the network, for one more pass."""
    array = frame.array
    while array.shape[1] < size[0] or array.shape[0] < size[1]:
        larger = again(array)
        if larger.shape[0] <= array.shape[0]:
            break
        array = larger
    if array.shape[1::-1] != size:
        array = resample(array, size, frame.alpha)
    return replace(frame, array=array)


def resample(
    array: np.ndarray,  # [H, W, C]
    size: tuple[int, int],
    alpha: bool,
) -> np.ndarray:
    """By MATLAB's bicubic; colours weighted by their alpha."""
    dtype = array.dtype
    top = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
    planes = np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)
    planes /= top
    weight = planes[-1:] if alpha else None
    if weight is not None and (weight < 1).any():
        clear = _core.resize_bicubic(planes, size[1], size[0])
        thick = _core.resize_bicubic(planes[:-1] * weight, size[1], size[0])
        a = np.clip(clear[-1:], 0, 1)
        colours = np.divide(thick, a, out=clear[:-1].copy(), where=a > 1e-3)
        planes = np.concatenate([colours, a])
    else:
        planes = _core.resize_bicubic(planes, size[1], size[0])
    planes = np.clip(planes, 0, 1) if dtype.kind != "f" or array.max() <= 1 else planes
    out = planes.transpose(1, 2, 0) * top
    return out.astype(dtype) if dtype.kind == "f" else np.rint(out).astype(dtype)
