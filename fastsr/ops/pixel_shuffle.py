# SPDX-License-Identifier: Apache-2.0
"""pixel_shuffle: scale^2 channels of a pixel become its scale x scale pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reference(
    x: Tensor,  # [N, C * scale^2, h, w]
    *,
    scale: int,
) -> Tensor:  # [N, C, h * scale, w * scale]
    """out[c, s y + i, s x + j] = x[c s^2 + i s + j, y, x].

    >>> reference(torch.rand(1, 8, 5, 5), scale=2).shape
    torch.Size([1, 2, 10, 10])
    """
    import torch

    return torch.nn.functional.pixel_shuffle(x, scale)
