# SPDX-License-Identifier: Apache-2.0
"""What networks on an enlarged image learn from: pairs of images in memory, and losses on crops of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fastsr.errors import InputError

UNIT = 16384  # an enlarged image goes a little beyond [0, 1]: int16 steps of 2^-14 hold it at 94 dB
PART, PARTS = 8, 2  # crops that go through together (they fit the cache), and how many times for one step

Pair = tuple[Tensor, Tensor]
"""(input, HR) of one image, [H, W] or [C, H, W] int16 of 1 / UNIT."""


class Network(Protocol):
    """An image to an image of the same size."""

    @property
    def radius(self) -> int: ...

    def interior(self, x: Tensor, half: bool = False) -> Tensor:
        """The output without the `radius` pixels at the edge, where a border would be read."""
        ...


def quantise(x: Tensor) -> Tensor:
    return (x * UNIT).round().clamp(-32768, 32767).to(torch.int16)


def weights(pool: Sequence[Pair]) -> Tensor:
    """What an image counts in the loss, [images]: the inverse of its input's square error, within 25 : 1.

    PSNR is the mean of logarithms over images: a tenth off a small error is worth as much as a tenth off a large one.
    Unweighted, a few busy images decide (annet x3, 150 s: validation 27.58 dB against 27.60 with weights).
    """
    error = torch.tensor([((x - y).float() / UNIT).pow(2).mean().item() for x, y in pool]).clamp(min=1e-9)
    return (error.median() / error).clamp(0.2, 5.0)


def loss(
    net: Network, pool: Sequence[Pair], weight: Tensor, generator: torch.Generator, half: bool, count: int = PART
) -> Tensor:
    """Mean square error of `count` crops, flipped and turned at random, weighted by image."""
    r = net.radius
    size = (40 if r < 5 else 64) + 2 * r  # where borders are read, nothing is learnt
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    ws: list[Tensor] = []
    if all(min(x.shape[-2:]) < size for x, _ in pool):
        raise InputError(f"no training image has the {size} x {size} pixels of a crop: give larger ones")
    while len(xs) < count:
        image, top, left, turn = torch.randint(1 << 30, (4,), generator=generator).tolist()
        x, y = pool[image % len(pool)]
        if min(x.shape[-2:]) < size:
            continue
        i, j = top % (x.shape[-2] - size + 1), left % (x.shape[-1] - size + 1)
        x, y = (t[..., i : i + size, j : j + size].rot90(turn % 4, (-2, -1)) for t in (x, y))
        if turn % 8 >= 4:
            x, y = x.flip(-2), y.flip(-2)
        xs.append(x)
        ys.append(y[..., r:-r, r:-r])
        ws.append(weight[image % len(pool)])
    out = net.interior(_batch(xs), half)
    error = (out - _batch(ys)).pow(2).mean((1, 2, 3))
    return (error * torch.stack(ws)).mean()


def psnr(net: Network, checks: Sequence[Pair]) -> float:
    """Mean PSNR over whole images, without their edges."""
    total, r = 0.0, net.radius
    with torch.no_grad():
        for x, y in checks:
            out = net.interior(_batch([x]))
            error = (out - _batch([y[..., r:-r, r:-r]])).pow(2).mean().item()
            total += -10 * math.log10(max(error, 1e-12))
    return total / len(checks)


def _batch(images: Sequence[Tensor]) -> Tensor:  # [N, C, H, W]
    stacked = torch.stack(list(images)).float() / UNIT
    return stacked if stacked.ndim == 4 else stacked[:, None]


def module(net: nn.Module) -> Network:
    """`net` as a Network, for the loop, which knows modules only."""
    assert callable(getattr(net, "interior", None))
    return net  # type: ignore[return-value]
