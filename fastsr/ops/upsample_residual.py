# SPDX-License-Identifier: Apache-2.0
"""upsample_residual: nearest neighbour plus a deconvolution whose kernels do not overlap (paper 002, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reference(
    x: Tensor,  # [N, C, h, w] float
    *,
    w: Tensor,  # [C, C, scale, scale], (in, out) as torch's ConvTranspose2d has it
    b: Tensor | None = None,  # [C]
    scale: int,
    activation: str = "relu",
    slope: float = 0.0,
) -> Tensor:  # [N, C, h * scale, w * scale]
    """out[s y + i, s x + j] = x[y, x] + w[:, :, i, j]' act(x[y, x]) + b: kernel and stride are the scale.

    >>> reference(torch.rand(1, 4, 5, 5), w=torch.rand(4, 4, 2, 2), scale=2).shape
    torch.Size([1, 4, 10, 10])
    """
    import torch

    from fastsr.ops.conv2d import act

    up = torch.nn.functional.conv_transpose2d(act(x, activation, slope), w, b, stride=scale)
    return up + x.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
