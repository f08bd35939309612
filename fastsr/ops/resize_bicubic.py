# SPDX-License-Identifier: Apache-2.0
"""resize_bicubic: MATLAB's imresize(x, scale, "bicubic") for an integer scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def matrix(n: int, scale: int) -> np.ndarray:
    """The [n * scale, n] float64 matrix that upscales one axis: cubic kernel with a = -0.5, symmetric border."""
    m = np.zeros((n * scale, n))
    for o in range(n * scale):
        u = (o + 0.5) / scale - 0.5
        taps = np.arange(int(np.floor(u)) - 1, int(np.floor(u)) + 3)
        x = np.abs(u - taps)
        w = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0))
        i = taps % (2 * n)
        np.add.at(m[o], np.where(i < n, i, 2 * n - 1 - i), w / w.sum())
    return m


def reference(
    x: Tensor,  # [N, C, h, w] float
    *,
    scale: int,
) -> Tensor:  # [N, C, h * scale, w * scale]
    """Upscale both axes by `scale`: out = A x B', A and B as `matrix` gives them.

    >>> reference(torch.rand(1, 1, 4, 4), scale=3).shape
    torch.Size([1, 1, 12, 12])
    """
    import torch

    rows = torch.from_numpy(matrix(x.shape[-2], scale)).to(x)
    columns = torch.from_numpy(matrix(x.shape[-1], scale)).to(x)
    return rows @ x @ columns.T
