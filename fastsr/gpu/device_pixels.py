# SPDX-License-Identifier: Apache-2.0
"""Pixels on a GPU, from packed to packed: colour by kernels, the network, self-ensemble.

What the core does with pixels (csrc/core/pixels), for whole batches and without waiting for the device. Values are
checked on the way; the verdict is two numbers on the device, which `judge` reads when the work is done.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastsr import _core
from fastsr.engine import TURNS, Job, turned_sum
from fastsr.errors import InputError


class OnDevice(Protocol):
    """What a plan prepared for a GPU offers beside `run`."""

    @property
    def device(self) -> torch.device: ...

    def run_tensor(self, x: Tensor) -> Tensor: ...


class OnStream(Protocol):
    """A GPU and the stream on which its network runs."""

    @property
    def prepared(self) -> OnDevice: ...

    def within(self) -> contextlib.AbstractContextManager[Any]:
        """That stream as the current one of its device."""
        ...


class Enlarger:
    """Packed pixels to packed pixels on one device."""

    def __init__(self, device: torch.device, domain: str, scale: int) -> None:
        self._kernels: Any = importlib.import_module("fastsr.kernels.triton.color")
        self._packed = self._kernels.pack(*_core.ycbcr(), 1 if domain == "y" else 3, scale, device)

    def __call__(
        self,
        x: Tensor,  # [N, H, W, C] uint8, uint16 or fp32, any strides
        out: Tensor,  # [N, s H, s W, C] of the same dtype, any strides: what is written
        bad: Tensor,  # [2] int32, zeros: for `judge`
        run: Callable[[Tensor], Tensor],
    ) -> None:
        """Queue it all on the device's current stream, `run` being the network."""
        net, rest = self._kernels.split(self._packed, x, bad, _core.LOWEST, _core.HIGHEST)
        self._kernels.join(self._packed, run(net), rest, bad, out)


def judge(bad: Sequence[int], check: Callable[[], None], job: Job) -> None:
    """Raise InputError when the input was no image, by `check` that names the place, ModelError when the output is none."""
    if bad[0]:
        check()
        raise InputError("float images must lie in [0, 1]: this one did not when it was read")
    if bad[1]:
        raise job.not_finite()


def ensemble(
    x: Tensor,  # [N, C, h, w] on the device of the first place
    places: Sequence[OnStream],
) -> Tensor:  # [N, C, h * scale, w * scale] fp32, there
    """The mean over the 8 flips and turns, divided among the places; summed in float64."""
    inputs, sums, places = [], [], places[:TURNS]
    for place in places:  # first of all, since a copy waits for what was queued before it
        with place.within():
            inputs.append(x.to(place.prepared.device))
    for k, place in enumerate(places):
        with place.within():
            sums.append(turned_sum(place.prepared.run_tensor, inputs[k], range(k, TURNS, len(places)), torch))
    total = sums[0]
    for place, part in zip(places[1:], sums[1:], strict=True):
        with place.within():
            part = part.to(total.device)
        total += part
    return (total / TURNS).float()
