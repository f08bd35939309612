# SPDX-License-Identifier: Apache-2.0
"""conv2d: k x k stride-1 convolution of one input or several, with border, bias, activation and optional residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BORDERS = ("zero", "replicate", "symmetric")
BEFORE = ("none", "relu", "leaky_relu")
"""activations of what is read"""
ACTIVATIONS = (*BEFORE, "silu", "sigmoid", "tanh")
"""activations of the sum"""


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


def act(
    x: Tensor,  # [N, C, H, W]
    activation: str,
    slope: float | Tensor,  # [C] if a tensor
) -> Tensor:
    """One of ACTIVATIONS; "leaky_relu" has the given slope, or one for each channel (PReLU)."""
    import torch

    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if activation == "leaky_relu":
        if isinstance(slope, torch.Tensor):
            return torch.nn.functional.prelu(x, slope)
        return torch.nn.functional.leaky_relu(x, slope)
    if activation == "silu":
        return torch.nn.functional.silu(x)
    return x if activation == "none" else getattr(x, activation)()


def reference(
    x: Tensor,  # [N, C0, H, W] float
    *others: Tensor,  # `join` - 1 more of x's parts [N, Ck, H, W], then the residual [N, Co, H, W] or none
    w: Tensor,  # [Co, Ci, k, k], Ci of all parts together
    b: Tensor | None = None,  # [Co]
    slopes: Tensor | None = None,  # [Co], of the activation "leaky_relu"
    border: str = "zero",
    input_activation: str = "none",
    activation: str = "none",
    sum_inside: bool = False,
    gate: bool = False,
    slope: float = 0.0,
    join: int = 1,
) -> Tensor:  # [N, Co, H, W]
    """out = act(t) + residual with t = w * act_in(x) + b, cross-correlation as torch has it.

    With `sum_inside` out = act(t + residual); with `gate` out = (t + residual) (sigmoid(t) - 1/2). The first `join`
    inputs are one x, channel after channel. Before the convolution act_in is one of BEFORE, after it one of ACTIVATIONS;
    `slopes` takes the place of `slope` after it.

    >>> reference(torch.rand(1, 1, 8, 8), w=torch.rand(64, 1, 5, 5)).shape
    torch.Size([1, 64, 8, 8])
    """
    import torch

    if len(others) not in (join - 1, join):
        raise ValueError(f"{1 + len(others)} inputs, of which join={join} are x and one may be a residual")
    if input_activation not in BEFORE:
        raise ValueError(f"input_activation {input_activation!r} is not one of {', '.join(BEFORE)}")
    if join > 1:
        x = torch.cat([x, *others[: join - 1]], 1)
    residual = others[join - 1] if len(others) == join else None
    x = act(x, input_activation, slope)
    r = w.shape[-1] // 2
    # Zeros are not copied around x but left to the convolution: fewer bytes, which training would keep, too.
    y = torch.nn.functional.conv2d(x if border == "zero" else pad(x, r, border), w, b, padding=r * (border == "zero"))
    if gate:
        if residual is None or activation != "none" or sum_inside:
            raise ValueError("gate takes a residual, no activation and no sum_inside")
        return (y + residual) * (y.sigmoid() - 0.5)
    after = slope if slopes is None else slopes
    if residual is not None and sum_inside:
        return act(y + residual, activation, after)
    y = act(y, activation, after)
    return y if residual is None else y + residual
