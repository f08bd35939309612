# SPDX-License-Identifier: Apache-2.0
"""Exact folds for lowerings: enlargements and bases as convolutions before a pixel_shuffle.

    nearest enlargement, k x k convolution     = a smaller convolution to s^2 times the maps, pixel_shuffle
    transposed convolution of stride s         = the same
    shuffle(x) + nearest(lr)                   = shuffle(x + each channel of lr s^2 times)
    bicubic of a shuffle, to half its size     = four convolutions before a shuffle of half the scale

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


def halved(
    channels: int,
    scale: int,  # of the shuffle, even; s below
) -> list[tuple[np.ndarray, np.ndarray]]:
    """shuffle(x), then bicubic (a = -3/4, no antialias) to half its size, before a shuffle of s/2: for rows, then columns,
    a convolution [Co, Ci, 3, 3] with a zero border and one with a replicated border, whose outputs are added.

    Taps are -3/32, 19/32, 19/32, -3/32, and a pixel beyond the edge is that on it: of another phase than x has there. So the
    first convolution leaves it out where the border's zeros are, and the second adds what it took too much elsewhere.
    """
    s, t = scale, scale // 2
    found = []
    for vertical in (True, False):
        inside, beyond = np.zeros((2, t, s, 3))  # new phase, old phase, offset
        for i in range(t):
            for d, tap in ((-1, -3 / 32), (0, 19 / 32), (1, 19 / 32), (2, -3 / 32)):
                offset, phase = divmod(2 * i + d, s)
                inside[i, phase, 1 + offset] += tap
                if offset:
                    edge = 0 if offset < 0 else s - 1
                    inside[i, edge, 1 + offset] -= tap
                    beyond[i, edge, 1 + offset] += tap
        found.append((_moved(inside, channels, vertical), _moved(beyond, channels, vertical)))
    return found


def _moved(
    taps: np.ndarray,  # [t, s, 3]
    channels: int,
    vertical: bool,  # channels (c, s, s) to (c, t, s); else (c, t, s) to (c, t, t)
) -> np.ndarray:  # [Co, Ci, 3, 3]
    t, s = taps.shape[:2]
    if vertical:
        w = np.einsum("ab,ipy,jq,x->aijbpqyx", np.eye(channels), taps, np.eye(s), [0, 1, 0])
    else:
        w = np.einsum("ab,ip,jqx,y->aijbpqyx", np.eye(channels), np.eye(t), taps, [0, 1, 0])
    found: np.ndarray = w.reshape(int(np.prod(w.shape[:3])), -1, 3, 3)
    return found
