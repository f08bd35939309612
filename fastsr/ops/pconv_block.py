# SPDX-License-Identifier: Apache-2.0
"""pconv_block: the residual block of projected convolutions (paper 002, section 3.3, figure 2d)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastsr.ops import conv2d

if TYPE_CHECKING:
    from torch import Tensor


def reference(
    x: Tensor,  # [N, C, H, W] float
    *,
    w1: Tensor,  # [M, C, 1, 1]
    b1: Tensor | None = None,  # [M]
    w3: Tensor,  # [C, M, 3, 3]
    b3: Tensor | None = None,  # [C]
    activation: str = "relu",
    slope: float = 0.0,
) -> Tensor:  # [N, C, H, W]
    """out = x + w3 * act(w1 * act(x) + b1) + b3; zero border of one pixel around the 3 x 3.

    >>> reference(torch.rand(1, 8, 5, 5), w1=torch.rand(4, 8, 1, 1), w3=torch.rand(8, 4, 3, 3)).shape
    torch.Size([1, 8, 5, 5])
    """
    inner = conv2d.reference(x, w=w1, b=b1, input_activation=activation, activation=activation, slope=slope)
    return conv2d.reference(inner, x, w=w3, b=b3)
