# SPDX-License-Identifier: Apache-2.0
"""resize_bicubic: MATLAB's imresize(x, scale, "bicubic") for an integer scale."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def matrix(n: int, scale: int) -> np.ndarray:
    """The [n * scale, n] float64 matrix that upscales one axis: cubic kernel with a = -0.5, symmetric border."""
    m = np.zeros((n * scale, n))
    u = (np.arange(n * scale) + 0.5) / scale - 0.5
    taps = np.floor(u).astype(int)[:, None] + np.arange(-1, 3)
    x = np.abs(u[:, None] - taps)
    w = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0))
    i = taps % (2 * n)
    at = np.where(i < n, i, 2 * n - 1 - i)
    np.add.at(m, (np.arange(n * scale)[:, None], at), w / w.sum(1, keepdims=True))
    return m


@functools.lru_cache(16)
def _axis(n: int, scale: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`matrix` on a device. Kept: made anew for each image it costs more than a network, and no CUDA graph holds it."""
    import torch

    with torch.inference_mode(False):  # autograd may want it later
        return torch.from_numpy(matrix(n, scale)).to(device, dtype)


def reference(
    x: Tensor,  # [N, C, h, w] float
    *,
    scale: int,
) -> Tensor:  # [N, C, h * scale, w * scale]
    """Upscale both axes by `scale`: out = A x B', A and B as `matrix` gives them.

    >>> reference(torch.rand(1, 1, 4, 4), scale=3).shape
    torch.Size([1, 1, 12, 12])
    """
    rows, columns = (_axis(n, scale, x.device, x.dtype) for n in x.shape[-2:])
    return rows @ x @ columns.T
