# SPDX-License-Identifier: Apache-2.0
"""Pictures of any samples and bands become images that an Upscaler takes, and its results pictures of the same kind.

Integers other than unsigned 8 and 16 bits, and floats beyond [0, 1], are mapped by their own range onto [0, 1] and back. Bands
beyond gray or RGB with alpha go through the network each on its own, as gray.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.errors import InputError
from fastsr.files.picture import Frame

DIRECT = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


@dataclass(frozen=True)
class Range:
    """How samples stand in [0, 1]: (value - low) / (high - low)."""

    low: float
    high: float

    def there(self, a: np.ndarray) -> np.ndarray:
        return np.clip((a.astype(np.float64) - self.low) / (self.high - self.low), 0, 1).astype(np.float32)

    def back(self, a: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        full = a.astype(np.float64) * (self.high - self.low) + self.low
        if dtype.kind == "f":
            return full.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(full), limits.min, limits.max).astype(dtype)


@dataclass(frozen=True)
class Part:
    """Channels that go through the network together."""

    begin: int
    end: int
    alpha: bool
    range: Range | None  # of the colours, where they are not taken as they are


def parts(frame: Frame) -> list[Part]:
    """Raises InputError for samples that are no numbers."""
    ends = [frame.colors + frame.alpha]
    ends += range(ends[0] + 1, frame.array.shape[2] + 1)
    begins = [0, *ends[:-1]]
    made = []
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        colours = frame.array[..., begin : end - (frame.alpha and i == 0)]
        made.append(Part(begin, end, frame.alpha and i == 0, _range(colours, frame)))
    return made


def _range(a: np.ndarray, frame: Frame) -> Range | None:
    if a.dtype.kind == "f":
        low, high = float(a.min()), float(a.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise InputError(f"the {frame.what} image holds nan or infinity: fill these samples first")
        if low >= _core.LOWEST and high <= _core.HIGHEST:
            return None if a.dtype == np.float32 else Range(0.0, 1.0)
        if low >= 0:
            low = 0.0
        return Range(low, high if high > low else low + 1)
    if a.dtype in DIRECT:
        return None
    low, high = float(a.min()), float(a.max())
    return Range(low, high if high > low else low + 1)


def images(frame: Frame, made: list[Part]) -> list[np.ndarray]:
    """What the network is given, one image a part."""
    out = []
    for part in made:
        array = frame.array[..., part.begin : part.end]
        if part.range is not None:
            colours = part.range.there(array[..., : array.shape[2] - part.alpha])
            if part.alpha:
                top = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
                colours = np.concatenate([colours, (array[..., -1:] / top).astype(np.float32)], axis=2)
            array = colours
        out.append(array)
    return out


def joined(frame: Frame, made: list[Part], results: list[np.ndarray]) -> Frame:
    """The picture again, of the results in the order of its parts."""
    if len(made) == 1 and made[0].range is None:
        return replace(frame, array=results[0])
    dtype, out = frame.array.dtype, []
    for part, array in zip(made, results, strict=True):
        if part.range is None:
            out.append(array)
            continue
        colours = part.range.back(array[..., : array.shape[2] - part.alpha], dtype)
        if part.alpha:
            top = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
            colours = np.concatenate([colours, Range(0.0, top).back(array[..., -1:], dtype)], axis=2)
        out.append(colours)
    return replace(frame, array=np.concatenate(out, axis=2))


def mapped(made: list[Part]) -> list[str]:
    """What is to be said about it."""
    ranges = [p.range for p in made if p.range is not None and (p.range.low, p.range.high) != (0.0, 1.0)]
    if not ranges:
        return []
    return [f"samples are taken by their own range, {min(r.low for r in ranges):g} to {max(r.high for r in ranges):g}"]
