# SPDX-License-Identifier: Apache-2.0
"""What networks on an enlarged image learn from: pairs of images of one size, and the square error on crops of them."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from fastsr.train.pool import Pool, sample

PART, PARTS = 8, 2  # crops that go through together (they fit the cache), and how many times for one step


class Network(Protocol):
    """An image to an image of the same size."""

    @property
    def radius(self) -> int: ...

    def interior(self, x: Tensor, half: bool = False) -> Tensor:
        """The output without the `radius` pixels at the edge, where a border would be read."""
        ...


def weights(pool: Pool) -> Tensor:
    """What an image counts in the loss, [images]: the inverse of its input's square error, within 25 : 1.

    PSNR is the mean of logarithms over images: a tenth off a small error is worth as much as a tenth off a large one.
    Unweighted, a few busy images decide (annet x3, 150 s: validation 27.58 dB against 27.60 with weights).
    """
    pairs = (pool.whole(i) for i in range(len(pool)))
    error = torch.tensor([(x - y).pow(2).mean().item() for x, y in pairs]).clamp(min=1e-9)
    return (error.median() / error).clamp(0.2, 5.0)


def loss(net: Network, pool: Pool, weight: Tensor, generator: torch.Generator, half: bool, count: int = PART) -> Tensor:
    """Mean square error of `count` crops, flipped and turned at random, weighted by image."""
    r = net.radius
    size = (40 if r < 5 else 64) + 2 * r  # where borders are read, nothing is learnt
    x, y, image = sample(pool, count, size, generator)
    error = (net.interior(x.contiguous(), half) - y[..., r:-r, r:-r]).pow(2).mean((1, 2, 3))
    return (error * weight[image]).mean()


def psnr(net: Network, checks: Pool) -> float:
    """Mean PSNR over whole images, without their edges."""
    total, r = 0.0, net.radius
    with torch.no_grad():
        for i in range(len(checks)):
            x, y = checks.whole(i)
            error = (net.interior(x.contiguous()) - y[..., r:-r, r:-r]).pow(2).mean().item()
            total += -10 * math.log10(max(error, 1e-12))
    return total / len(checks)


def module(net: nn.Module) -> Network:
    """`net` as a Network, for the loop, which knows modules only."""
    assert callable(getattr(net, "interior", None))
    return net  # type: ignore[return-value]
