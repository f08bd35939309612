# SPDX-License-Identifier: Apache-2.0
"""conv2d: k x k stride-1 convolution with border, bias, activation and optional residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BORDERS = ("zero", "replicate", "symmetric")


def pad(
    x: Tensor,  # [N, C, H, W]
    r: int,
    border: str,
) -> Tensor:  # [N, C, H + 2r, W + 2r]
    """Extend by `r` pixels on each side: "zero", "replicate", or "symmetric" (edge pixel repeated, period 2n)."""
    import torch

    if border == "zero":
        return torch.nn.functional.pad(x, (r, r, r, r))
    if border not in BORDERS:
        raise ValueError(f"border {border!r} is not one of {', '.join(BORDERS)}")
    index = []
    for n in x.shape[-2:]:  # made on the device: a CUDA graph captures no copies of the host's memory
        i = torch.arange(-r, n + r, device=x.device)
        if border == "replicate":
            index.append(i.clamp(0, n - 1))
        else:
            i = i % (2 * n)
            index.append(torch.minimum(i, 2 * n - 1 - i))
    return x[..., index[0], :][..., index[1]]


def act(x: Tensor, activation: str, slope: float) -> Tensor:
    """ "none", "relu", or "leaky_relu" of the given slope."""
    import torch

    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(x, slope)
    if activation not in ("none", "relu"):
        raise ValueError(f"activation {activation!r} is not one of none, relu, leaky_relu")
    return x.relu() if activation == "relu" else x


def reference(
    x: Tensor,  # [N, Ci, H, W] float
    residual: Tensor | None = None,  # [N, Co, H, W]
    *,
    w: Tensor,  # [Co, Ci, k, k]
    b: Tensor | None = None,  # [Co]
    border: str = "zero",
    input_activation: str = "none",
    activation: str = "none",
    sum_inside: bool = False,
    slope: float = 0.0,
) -> Tensor:  # [N, Co, H, W]
    """out = act(w * act_in(x) + b) + residual, cross-correlation as torch has it.

    With `sum_inside` out = act(w * act_in(x) + b + residual). Activations: "none", "relu", "leaky_relu".

    >>> reference(torch.rand(1, 1, 8, 8), w=torch.rand(64, 1, 5, 5)).shape
    torch.Size([1, 64, 8, 8])
    """
    import torch

    x = act(x, input_activation, slope)
    r = w.shape[-1] // 2
    # Zeros are not copied around x but left to the convolution: fewer bytes, which training would keep, too.
    y = torch.nn.functional.conv2d(x if border == "zero" else pad(x, r, border), w, b, padding=r * (border == "zero"))
    if residual is not None and sum_inside:
        return act(y + residual, activation, slope)
    y = act(y, activation, slope)
    return y if residual is None else y + residual
