# SPDX-License-Identifier: Apache-2.0
"""Pairs of images in memory, flat: a batch of crops, flipped and turned, is one gather on the device where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastsr.errors import InputError

UNIT = 16384  # an enlarged image goes a little beyond [0, 1]: int16 steps of 2^-14 hold it at 94 dB

# The 8 flips and turns of a square, as rot90 by turn % 4 and then a flip of the rows for 4 to 7: output pixel (u, v) is
# input row (side - 1) a + b u + c v and column (side - 1) d + e u + f v, by turn [a b c d e f].
TURNS = torch.tensor(
    [
        [0, 1, 0, 0, 0, 1],
        [0, 0, 1, 1, -1, 0],
        [1, -1, 0, 1, 0, -1],
        [1, 0, -1, 0, 1, 0],
        [1, -1, 0, 0, 0, 1],
        [0, 0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0, -1],
        [1, 0, -1, 1, -1, 0],
    ]
)


class Area(NamedTuple):
    """Where an image lies in its buffer, in pixels; `stride` from row to row."""

    first: int
    stride: int
    height: int
    width: int


def quantise(
    x: np.ndarray,  # float, about [0, 1]
    dtype: torch.dtype,
) -> np.ndarray:
    """uint8 of 1 / 255 or int16 of 1 / UNIT."""
    if dtype == torch.uint8:
        level: np.ndarray = np.floor(np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
    else:
        level = np.clip(np.round(x * UNIT), -32768, 32767).astype(np.int16)
    return level


class Images:
    """Images of one dtype, as `quantise` makes them, pixel after pixel in one buffer."""

    def __init__(self, channels: int, dtype: torch.dtype = torch.uint8) -> None:
        self.channels, self.dtype = channels, dtype
        self._bytes = bytearray()  # grows in place: twice the images would not fit everywhere
        self._pixels: Tensor | None = None  # [pixels, channels]
        self.device = torch.device("cpu")

    def add(
        self,
        image: np.ndarray,  # [C, H, W], float or quantised
    ) -> Area:
        """Keep a copy of `image`."""
        level = image if image.dtype.kind in "iu" else quantise(image, self.dtype)
        c, h, w = level.shape
        area = Area(len(self._bytes) // (c * level.itemsize), w, h, w)
        self._bytes += level.transpose(1, 2, 0).tobytes()
        return area

    def to(self, device: torch.device) -> None:
        """Move all to `device`; nothing can be added afterwards."""
        self._pixels, self.device = self.pixels.to(device), device
        if device.type != "cpu":
            self._bytes = bytearray()

    @property
    def pixels(self) -> Tensor:  # [pixels, channels]
        if self._pixels is None:
            self._pixels = torch.frombuffer(self._bytes, dtype=self.dtype).reshape(-1, self.channels)
        return self._pixels

    def whole(self, area: Area) -> Tensor:  # [1, C, H, W] float
        index = torch.arange(area.height)[:, None] * area.stride + torch.arange(area.width) + area.first
        return self._take(index[None].to(self.device))

    def crops(
        self,
        affine: Tensor,  # [N, 3] int64 on the images' device: the first pixel, steps from row to row and column to column
        size: int,
    ) -> Tensor:  # [N, C, size, size] float, channels last
        along = torch.arange(size, device=self.device)
        start, du, dv = (part[:, None, None] for part in affine.unbind(1))
        return self._take(start + du * along[:, None] + dv * along)

    def _take(self, index: Tensor) -> Tensor:  # [N, H, W] -> [N, C, H, W] float
        taken = self.pixels.index_select(0, index.flatten()).reshape(*index.shape, self.channels)
        return taken.permute(0, 3, 1, 2).float() / (255 if self.dtype == torch.uint8 else UNIT)


@dataclass
class Pool:
    """Pairs of an input and its HR image, `factor` times as large."""

    factor: int
    inputs: Images
    targets: Images
    pairs: list[tuple[Area, Area]] = field(default_factory=list)
    _tables: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def whole(self, i: int) -> tuple[Tensor, Tensor]:  # [1, C, h, w], [1, C, h * factor, w * factor] float
        x, y = self.pairs[i]
        return self.inputs.whole(x), self.targets.whole(y)

    def head(self, count: int) -> Pool:
        """The first `count` pairs, of the same images."""
        return Pool(self.factor, self.inputs, self.targets, self.pairs[:count])

    def fitting(self, size: int) -> Tensor:
        """The pairs with room for crops of `size`, a row each: its number, the input's area, the target's first, stride.

        Raises InputError when there are none.
        """
        if size not in self._tables:
            rows = [(i, *x, *y[:2]) for i, (x, y) in enumerate(self.pairs) if min(x.height, x.width) >= size]
            if not rows:
                side = size * self.factor
                raise InputError(f"no training image has the {side} x {side} pixels of a crop: give larger ones")
            self._tables[size] = torch.tensor(rows)
        return self._tables[size]


def to_device(pools: Iterable[Pool], device: torch.device) -> None:
    """Move the images of pools, each buffer once: pools of several scales share their targets."""
    for images in {id(part): part for pool in pools for part in (pool.inputs, pool.targets)}.values():
        images.to(device)


def of_pairs(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],  # [C, H, W] each, float or int16
) -> Pool:
    """A pool of inputs as large as their HR images, both int16. Raises InputError without any."""
    found: Pool | None = None
    for x, y in pairs:
        if found is None:
            found = Pool(1, Images(x.shape[0], torch.int16), Images(y.shape[0], torch.int16))
        found.pairs.append((found.inputs.add(x), found.targets.add(y)))
    if found is None:
        raise InputError("there are no images to learn from")
    return found


def sample(
    pool: Pool,
    count: int,
    size: int,  # of a crop of the input
    generator: torch.Generator,  # of the CPU, so that a seed means the same crops on every device
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, size, size], [N, C, size * factor, size * factor], [N] numbers of pairs
    """Crops drawn at random, flipped and turned; images too small for one are passed over."""
    table = pool.fitting(size)
    draw = torch.randint(1 << 30, (count, 4), generator=generator)
    number, first, stride, height, width, target, target_stride = table[draw[:, 0] % len(table)].unbind(1)
    top, left = draw[:, 1] % (height - size + 1), draw[:, 2] % (width - size + 1)
    turn, f = TURNS[draw[:, 3] % 8], pool.factor
    affine = torch.stack(
        [
            _affine(first, stride, top, left, size, turn),
            _affine(target, target_stride, top * f, left * f, size * f, turn),
        ]
    )
    if pool.inputs.device.type == "cuda":  # from pinned memory, so that the copy waits for nothing
        affine = affine.pin_memory().to(pool.inputs.device, non_blocking=True)
    return pool.inputs.crops(affine[0], size), pool.targets.crops(affine[1], size * f), number


def _affine(
    first: Tensor,  # [N], as all
    stride: Tensor,
    top: Tensor,
    left: Tensor,
    size: int,
    turn: Tensor,  # [N, 6]
) -> Tensor:  # [N, 3]
    a, b, c, d, e, f = turn.unbind(1)
    start = first + (top + (size - 1) * a) * stride + left + (size - 1) * d
    return torch.stack([start, b * stride + e, c * stride + f], 1)
