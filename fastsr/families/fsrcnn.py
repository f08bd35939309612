# SPDX-License-Identifier: Apache-2.0
"""FSRCNN: the fast SRCNN (Dong et al., ECCV 2016, arXiv 1608.00367). Paper, Set5 x2/x3/x4: 37.00/33.16/30.71.

    5 x 5 to d maps, 1 x 1 to s, m of 3 x 3, 1 x 1 to d, PReLU after each; transposed convolution 9 x 9 of stride `scale`

on Y, zero borders; d = 56, s = 12, m = 4. Names of tensors are those of the common PyTorch version. The plan has the
transposed convolution as one of LR size before a shuffle (folds.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from fastsr.errors import InputError
from fastsr.families import folds
from fastsr.families.states import State, filled, numbered
from fastsr.families.steps import conv, lowered, numbers, shuffle
from fastsr.plan import Plan

VARIANTS: dict[str, dict[str, Any]] = {f"fsrcnn_x{s}": {"scale": s} for s in (2, 3, 4)}


class FSRCNN(nn.Module):
    """Of the paper's (d, s, m), on Y in [0, 1].

    >>> FSRCNN(scale=3)(torch.rand(1, 1, 8, 8)).shape
    torch.Size([1, 1, 24, 24])
    """

    def __init__(self, scale: int = 3, d: int = 56, s: int = 12, m: int = 4) -> None:
        super().__init__()
        self.config = {"scale": scale, "d": d, "s": s, "m": m}
        self.scale = scale
        self.first_part = nn.Sequential(nn.Conv2d(1, d, 5, padding=2), nn.PReLU(d))
        mid: list[nn.Module] = [nn.Conv2d(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            mid += [nn.Conv2d(s, s, 3, padding=1), nn.PReLU(s)]
        self.mid_part = nn.Sequential(*mid, nn.Conv2d(s, d, 1), nn.PReLU(d))
        self.last_part = nn.ConvTranspose2d(d, 1, 9, scale, padding=4, output_padding=scale - 1)

    @property
    def name(self) -> str:
        return f"fsrcnn_x{self.scale}"

    def forward(
        self,
        lr: Tensor,  # [N, 1, h, w] in [0, 1]
    ) -> Tensor:  # [N, 1, h * scale, w * scale]
        out: Tensor = self.last_part(self.mid_part(self.first_part(lr)))
        return out

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        layers = [f"{part}.{i}" for part in ("first_part", "mid_part") for i in range(len(getattr(self, part)))]
        state, x, steps = self.state_dict(), "lr", []
        for layer, prelu in zip(layers[::2], layers[1::2], strict=True):
            steps.append(conv(layer, layer, x, slopes=f"{prelu}.weight"))
            x = layer
        steps += [conv("last_part", "wide", x), shuffle("wide", "out", self.scale)]
        made = {
            "last_part.weight": folds.deconv(numbers(state["last_part.weight"]), self.scale, 4),
            "last_part.bias": folds.repeated(numbers(state["last_part.bias"]), self.scale),
        }
        return lowered(steps, self.scale, state, made, "y")

    @staticmethod
    def matches(state: State) -> bool:
        return {"first_part.0.weight", "mid_part.0.weight", "last_part.weight"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> FSRCNN:
        """The network of these tensors; they do not say the scale. Raises ValueError where they do not fit."""
        if scale is None:
            raise InputError("does not say its scale: give it (scale=3, --scale 3)")
        if not 1 <= scale <= 8:
            raise ValueError(f"scale {scale} is not one of 1 to 8")
        s, d = state["mid_part.0.weight"].shape[:2]
        m = numbered(state, r"mid_part\.(\d+)\.") // 2 - 2
        if m < 0:
            raise ValueError("its middle has fewer than two convolutions")
        return filled(lambda: cls(scale, d, s, m), state)
