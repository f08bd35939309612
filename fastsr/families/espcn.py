# SPDX-License-Identifier: Apache-2.0
"""ESPCN: sub-pixel convolution (Shi et al., CVPR 2016, arXiv 1609.05158). Paper, Set5 x3 32.55 (trained on ImageNet 33.13).

    out = shuffle(conv3(tanh(conv3(tanh(conv5(lr))))))

on Y, all at LR size, zero borders; 64 and 32 maps. Names of tensors are those of the common PyTorch version.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from fastsr.families.states import State, filled, side_of
from fastsr.families.steps import conv, lowered, shuffle
from fastsr.plan import Plan

VARIANTS: dict[str, dict[str, Any]] = {f"espcn_x{s}": {"scale": s} for s in (2, 3, 4)}
LAYERS = ("first_part.0", "first_part.2", "last_part.0")


class ESPCN(nn.Module):
    """Three convolutions, on Y in [0, 1].

    >>> ESPCN(scale=3)(torch.rand(1, 1, 8, 8)).shape
    torch.Size([1, 1, 24, 24])
    """

    def __init__(self, scale: int = 3, maps: tuple[int, int] = (64, 32)) -> None:
        super().__init__()
        self.config = {"scale": scale, "maps": list(maps)}
        self.scale, (first, second) = scale, maps
        self.first_part = nn.Sequential(
            nn.Conv2d(1, first, 5, padding=2), nn.Tanh(), nn.Conv2d(first, second, 3, padding=1), nn.Tanh()
        )
        self.last_part = nn.Sequential(nn.Conv2d(second, scale * scale, 3, padding=1))

    @property
    def name(self) -> str:
        return f"espcn_x{self.scale}"

    def forward(
        self,
        lr: Tensor,  # [N, 1, h, w] in [0, 1]
    ) -> Tensor:  # [N, 1, h * scale, w * scale]
        return pixel_shuffle(self.last_part(self.first_part(lr)), self.scale)

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        steps = [
            conv(LAYERS[0], "first", "lr", activation="tanh"),
            conv(LAYERS[1], "second", "first", activation="tanh"),
            conv(LAYERS[2], "wide", "second"),
            shuffle("wide", "out", self.scale),
        ]
        return lowered(steps, self.scale, self.state_dict(), domain="y")

    @staticmethod
    def matches(state: State) -> bool:
        return {f"{layer}.weight" for layer in LAYERS} <= state.keys() and "mid_part.0.weight" not in state

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> ESPCN:
        """The network of these tensors. Raises ValueError where they do not fit."""
        first, second, last = (len(state[f"{layer}.weight"]) for layer in LAYERS)
        s = side_of(last, 1)
        return filled(lambda: cls(s, (first, second)), state)
