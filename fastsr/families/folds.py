# SPDX-License-Identifier: Apache-2.0
"""Exact folds for lowerings: enlargements and bases as convolutions before a pixel_shuffle.

    nearest enlargement, k x k convolution     = a smaller convolution to s^2 times the maps, pixel_shuffle
    transposed convolution of stride s         = the same
    shuffle(x) + nearest(lr)                   = shuffle(x + each channel of lr s^2 times)

All for a zero border: what lies outside of the image is 0 at both sizes. Sums of weights are rounded once, to float32.
"""

from __future__ import annotations

import numpy as np


def _placed(
    taps: list[tuple[int, int, int, int, np.ndarray]],  # (phase i, phase j, offset y, offset x, [Co, Ci])
    scale: int,
) -> np.ndarray:  # [Co * scale^2, Ci, k, k] float32
    """The convolution whose output channel (c, i, j) adds x[y + offset y, x + offset x] times these."""
    reach = max(max(abs(y), abs(x)) for _, _, y, x, _ in taps)
    co, ci = taps[0][4].shape
    w = np.zeros((co, scale, scale, ci, 2 * reach + 1, 2 * reach + 1))
    for i, j, y, x, value in taps:
        w[:, i, j, :, reach + y, reach + x] += value
    return w.reshape(co * scale**2, ci, *w.shape[-2:]).astype(np.float32)


def nearest_conv(
    w: np.ndarray,  # [Co, Ci, k, k], odd k, over the image enlarged by nearest neighbour, zero border
    scale: int,
) -> np.ndarray:  # [Co * scale^2, Ci, k', k'] float32, to be followed by pixel_shuffle
    """Before the enlargement what `w` is after it. Biases and whatever is done to single numbers stay: `repeated`."""
    r = w.shape[-1] // 2
    w = w.astype(np.float64)
    taps = [
        (i, j, (i + u - r) // scale, (j + v - r) // scale, w[:, :, u, v])
        for i, j in np.ndindex(scale, scale)
        for u, v in np.ndindex(w.shape[-2:])
    ]
    return _placed(taps, scale)


def deconv(
    w: np.ndarray,  # [Ci, Co, k, k], as torch's ConvTranspose2d has it
    stride: int,
    padding: int,
) -> np.ndarray:  # [Co * stride^2, Ci, k', k'] float32, to be followed by pixel_shuffle
    """A transposed convolution whose output is `stride` times its input, cropped or not: out[s y + i] needs s y + i + p - k."""
    w = w.astype(np.float64)
    taps = [
        (i, j, (i + padding - u) // stride, (j + padding - v) // stride, w[:, :, u, v].T)
        for i, j in np.ndindex(stride, stride)
        for u, v in np.ndindex(w.shape[-2:])
        if (i + padding - u) % stride == 0 and (j + padding - v) % stride == 0
    ]
    return _placed(taps, stride)


def repeated(
    b: np.ndarray,  # [C]
    scale: int,
) -> np.ndarray:  # [C * scale^2]
    """What each channel has, for all pixels that it becomes."""
    return np.repeat(b, scale**2)


def nearest(
    channels: int,
    scale: int,
) -> np.ndarray:  # [channels * scale^2, channels, 1, 1] float32
    """The 1 x 1 convolution that makes each channel scale^2 times, to be added before pixel_shuffle: exact to the bit."""
    return np.repeat(np.eye(channels, dtype=np.float32), scale**2, 0)[:, :, None, None]
