# SPDX-License-Identifier: Apache-2.0
"""anchored_regression: each patch is projected by the matrix of the atom it is anchored to (paper 000, section 4.2).

    f = filters * x at stride s        anchor = argmax_a |d_a . f|        detail = P_anchor f        (Eq. 5)
    out = x + mean over the 9 patches on each pixel of their details

Patches have side m = 3s and lie at multiples of s from -2s to H - s on the symmetrically extended image, so that
every pixel lies in exactly 9 of them. A patch without a feature of at least FLAT is flat: its features count as 0, its
anchor is atom 0 (in a blank sky or behind a letter rounding would choose it, and another on every machine).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastsr.ops.conv2d import pad

if TYPE_CHECKING:
    from torch import Tensor

FLAT = 2.0**-16  # an 8-bit level makes features of 1e-3, fp32 rounding of 1e-6
CHUNK = 16384  # patches scored at once: [CHUNK, A] scores stay a few tens of MB


def features(
    x: Tensor,  # [N, 1, H, W], H and W multiples of stride
    filters: Tensor,  # [n1, f, f]
    stride: int,
) -> Tensor:  # [N, n1, H / s + 2, W / s + 2]
    """The feature vector of every patch, 0 where it is flat."""
    import torch

    reach = 2 * stride + (filters.shape[-1] - 3 * stride) // 2
    found = torch.nn.functional.conv2d(pad(x, reach, "symmetric"), filters[:, None], stride=stride)
    return found * (found.abs().amax(1, keepdim=True) >= FLAT)


def anchors(
    f: Tensor,  # [P, n1]
    atoms: Tensor,  # [A, n1]
) -> Tensor:  # [P] int64
    """argmax_a |d_a . f|, the lowest index on a tie."""
    import torch

    return torch.cat([(part @ atoms.T).abs().argmax(1) for part in torch.split(f, CHUNK)])


def reference(
    x: Tensor,  # [N, 1, H, W] float
    *,
    filters: Tensor,  # [n1, f, f], f = 3s or 5s
    atoms: Tensor,  # [A, n1], unit rows
    projections: Tensor,  # [A, m * m, n1], m = 3s
    stride: int,
) -> Tensor:  # [N, 1, H, W]
    """Add to `x` the mean of the details that its patches' anchors predict.

    >>> reference(bicubic, filters=filters, atoms=atoms, projections=projections, stride=3)
    """
    import torch

    s, m = stride, 3 * stride
    f = features(x, filters, s)
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
    size = (x.shape[-2] + 4 * s, x.shape[-1] + 4 * s)
    total = torch.nn.functional.fold(columns_of, size, kernel_size=m, stride=s)
    return x + total[..., 2 * s : -2 * s, 2 * s : -2 * s] / 9
