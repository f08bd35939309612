# SPDX-License-Identifier: Apache-2.0
"""cista: the convolutional iterative soft thresholding algorithm as a recursion (paper 004, Eq. 10 and 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastsr.ops import conv2d

if TYPE_CHECKING:
    from torch import Tensor


def reference(
    y: Tensor,  # [N, n0, H, W] float
    *,
    w: Tensor,  # [m0, n0, k, k], the paper's W_l
    s: Tensor,  # [m0, m0, k, k], shared by all recursions
    steps: int,
) -> Tensor:  # [N, m0, H, W], no number negative
    """z_0 = relu(w * y), then `steps` times z = relu(w * y + s * z); zero borders.

    >>> reference(torch.rand(1, 4, 5, 5), w=torch.rand(8, 4, 3, 3), s=torch.rand(8, 8, 3, 3), steps=2).shape
    torch.Size([1, 8, 5, 5])
    """
    fixed = conv2d.reference(y, w=w)
    z = fixed.relu()
    for _ in range(steps):
        z = conv2d.reference(z, fixed, w=s, activation="relu", sum_inside=True)
    return z
