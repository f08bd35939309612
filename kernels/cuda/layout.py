# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of conv_tile.cuh: order of weights, bytes of shared memory, tiles."""

from __future__ import annotations

TILE = 16
HALO_PIXELS = (TILE + 2) ** 2


def tile_channels(n: int) -> bool:
    """Whether 8 warps can share n output channels of a tile (`Share` of conv_tile.cuh)."""
    return 0 < n <= 128 and n % (16 if n <= 64 else 32) == 0


def channel_order(n: int) -> list[int]:
    """The channel whose weights are row r of a tile of n output channels.

    Row r is column r % 8 of the mma r / 8. A lane holds columns 2t and 2t + 1 of each mma; over the mma of a group of 4
    (or 2) these shall be 8 (or 4) neighbours.
    """
    of_a_warp = n // 2 if n > 64 else n
    group = 4 if of_a_warp % 32 == 0 else 2
    order = []
    for row in range(n):
        mma, column = divmod(row, 8)
        first = mma // group * group * 8
        order.append(first + column // 2 * 2 * group + mma % group * 2 + column % 2)
    return order


def tiles(images: int, height: int, width: int, rows: int = TILE) -> int:
    """of `rows` x TILE pixels"""
    return images * -(-height // rows) * -(-width // TILE)
