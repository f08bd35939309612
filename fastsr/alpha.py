# SPDX-License-Identifier: Apache-2.0
"""Colours under alpha: what nobody sees may not bleed into what is seen, and is not lost either.

A network mixes neighbours, hidden ones too: a white disc on transparent black gets a dark rim. So hidden pixels within its
reach take the colours of the visible ones beside them first, ring by ring. Where the result is transparent, it holds the
hidden colours as they were, each pixel repeated: no network is spent on them, and tiles agree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def upscale(
    run: Callable[[np.ndarray, np.ndarray], bool],  # the network: reads the first, writes the second
    given: np.ndarray,  # [H, W, 2 | 4], the last channel alpha
    out: np.ndarray,  # [H * scale, W * scale, 2 | 4]
    reach: int,  # pixels around an output that it depends on
) -> bool:
    """Whether what the network gave was finite."""
    hidden = given[..., -1] == 0
    if not hidden.any():
        return run(given, out)
    full = extended(given, hidden, reach)
    if not run(full, out):
        return False
    scale = out.shape[0] // given.shape[0]
    clear = out[..., -1] == 0
    for channel in range(given.shape[2] - 1):
        row = given[..., channel].repeat(scale, axis=1)
        np.copyto(out[..., channel], row.repeat(scale, axis=0), where=clear)
    return True


def extended(given: np.ndarray, hidden: np.ndarray, reach: int) -> np.ndarray:
    """A copy whose hidden pixels, up to `reach` from a visible one, hold the mean of their neighbours nearer to it."""
    h, w, channels = given.shape
    native = given.dtype.newbyteorder("=")
    padded = np.zeros((h + 2, w + 2, channels - 1), native)
    padded[1:-1, 1:-1] = given[..., :-1]
    known = np.zeros((h + 2, w + 2), bool)
    known[1:-1, 1:-1] = ~hidden
    open_ = np.zeros((h + 2, w + 2), bool)
    open_[1:-1, 1:-1] = hidden
    steps = np.array([dy * (w + 2) + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    colours, known, open_ = padded.reshape(-1, channels - 1), known.ravel(), open_.ravel()
    ring = np.flatnonzero(open_ & _beside(known.reshape(h + 2, w + 2)).ravel())
    for _ in range(reach):
        if not len(ring):
            break
        total = np.zeros((len(ring), channels - 1), np.float64)
        count = np.zeros(len(ring))
        for step in steps:
            seen = known[ring + step]
            total[seen] += colours[ring[seen] + step]
            count += seen
        mean = total / count[:, None]
        colours[ring] = mean if native.kind == "f" else np.rint(mean)
        known[ring], open_[ring] = True, False
        around = np.unique((ring[:, None] + steps).ravel())
        ring = around[open_[around]]
    out = np.empty(given.shape, native)
    out[..., :-1] = padded[1:-1, 1:-1]
    out[..., -1] = given[..., -1]
    return out


def _beside(mask: np.ndarray) -> np.ndarray:
    """Pixels with one of `mask` among their 8 neighbours."""
    rows = mask.copy()
    rows[1:] |= mask[:-1]
    rows[:-1] |= mask[1:]
    out = rows.copy()
    out[:, 1:] |= rows[:, :-1]
    out[:, :-1] |= rows[:, 1:]
    return out
