# SPDX-License-Identifier: Apache-2.0
"""anchored_regression: each patch is projected by the matrix of the atom it is anchored to (paper 000, section 4.2).

    f = filters * x        anchor = argmax_a |d_a . f|        detail = P_anchor f        (Eq. 5)
    out = base + mean over the 9 patches on each pixel of their details

x is the LR image, base its bicubic upscaling. Every pixel of x, and of one ring around it, has a patch: the 3 x 3 cells
of s x s output pixels around it, so that every output pixel lies in exactly 9 patches. A patch without a feature of at
least FLAT is flat: its features count as 0, its anchor is atom 0 (in a blank sky or behind a letter rounding would
choose it, and another on every machine).

The paper filters the bicubic image. Upscaling and filtering are both linear, and at stride s every patch sees the same
phase of the upscaling, so `compose` makes the two one filter on x: 81 taps for 225 (x3) or 400 (x4). Borders agree as
well: a symmetric border goes through a symmetric kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastsr.ops.conv2d import pad
from fastsr.ops.resize_bicubic import matrix

if TYPE_CHECKING:
    from torch import Tensor

FLAT = 2.0**-16  # an 8-bit level makes features of 1e-3, fp32 rounding of 1e-6
CHUNK = 16384  # patches scored at once: [CHUNK, A] scores stay a few tens of MB


def compose(
    filters: np.ndarray,  # [n1, f, f], f an odd number of cells, on the upscaled image
    scale: int,
) -> np.ndarray:  # [n1, f / scale + 4, f / scale + 4] float32, on the image before
    """The filters that see before bicubic upscaling what `filters` see after it."""
    cells = filters.shape[-1] // scale
    # In the middle of an image large enough that no border is read.
    first = cells // 2 + 2
    up = matrix(2 * first + 1, scale)[2 * scale : (2 + cells) * scale]
    composed: np.ndarray = np.einsum("nij,ia,jb->nab", filters.astype(np.float64), up, up).astype(np.float32)
    return composed


def features(
    x: Tensor,  # [N, 1, h, w]
    filters: Tensor,  # [n1, f, f], odd f
) -> Tensor:  # [N, n1, h + 2, w + 2]
    """The feature vector of every patch, 0 where it is flat."""
    import torch

    found = torch.nn.functional.conv2d(pad(x, 1 + filters.shape[-1] // 2, "symmetric"), filters[:, None])
    return found * (found.abs().amax(1, keepdim=True) >= FLAT)


def anchors(
    f: Tensor,  # [P, n1]
    atoms: Tensor,  # [A, n1]
) -> Tensor:  # [P] int64
    """argmax_a |d_a . f|, the lowest index on a tie."""
    import torch

    return torch.cat([(part @ atoms.T).abs().argmax(1) for part in torch.split(f, CHUNK)])


def reference(
    x: Tensor,  # [N, 1, h, w] float
    base: Tensor,  # [N, 1, h * scale, w * scale]
    *,
    filters: Tensor,  # [n1, f, f], odd f
    atoms: Tensor,  # [A, n1], unit rows
    projections: Tensor,  # [A, m * m, n1], m = 3 * scale
    scale: int,
) -> Tensor:  # [N, 1, h * scale, w * scale]
    """Add to `base` the mean of the details that the anchors of x's patches predict.

    >>> reference(lr, bicubic, filters=filters, atoms=atoms, projections=projections, scale=3)
    """
    import torch

    s, m = scale, 3 * scale
    f = features(x, filters)
    n, k, rows, columns = f.shape
    f = f.permute(0, 2, 3, 1).reshape(-1, k)
    anchor = anchors(f, atoms)
    details = f.new_empty(f.shape[0], m * m)
    order = torch.argsort(anchor, stable=True)
    counts = torch.bincount(anchor, minlength=atoms.shape[0]).tolist()
    begin = 0
    for a, count in enumerate(counts):
        if count:
            at = order[begin : begin + count]
            details[at] = f[at] @ projections[a].T
            begin += count
    columns_of = details.reshape(n, rows * columns, m * m).transpose(1, 2)
    size = (base.shape[-2] + 4 * s, base.shape[-1] + 4 * s)
    total = torch.nn.functional.fold(columns_of, size, kernel_size=m, stride=s)
    return base + total[..., 2 * s : -2 * s, 2 * s : -2 * s] / 9
