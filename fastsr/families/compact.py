# SPDX-License-Identifier: Apache-2.0
"""Compact: Real-ESRGAN's small network, SRVGGNetCompact (Wang et al., ICCV workshops 2021, arXiv 2107.10833).

    out = shuffle(conv(prelu(conv( ... prelu(conv(lr)))))) + nearest(lr)

on RGB, all at LR size, zero borders, one slope per channel. Names of tensors are the authors'. realesr-animevideov3 has 16
convolutions of 64 maps between the ends, realesr-general-x4v3 32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle

from fastsr.families import folds
from fastsr.families.states import State, filled, numbered, side_of
from fastsr.families.steps import conv, lowered, shuffle
from fastsr.plan import Plan, Step

VARIANTS: dict[str, dict[str, Any]] = {
    "compact_x2": {"scale": 2},
    "compact_x4": {"scale": 4},
    "compact_32_x4": {"scale": 4, "convs": 32},
}


class Compact(nn.Module):
    """`convs` convolutions of `width` maps between the first and the last, on RGB in [0, 1].

    >>> Compact(scale=2)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 16, 16])
    """

    def __init__(self, scale: int = 4, width: int = 64, convs: int = 16) -> None:
        super().__init__()
        if not 1 <= scale <= 8:
            raise ValueError(f"scale {scale} is not one of 1 to 8")
        self.config = {"scale": scale, "width": width, "convs": convs}
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(convs):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.ModuleList([*layers, nn.Conv2d(width, 3 * scale * scale, 3, padding=1)])

    @property
    def name(self) -> str:
        width, convs = self.config["width"], self.config["convs"]
        return f"compact_{'' if width == 64 else f'{width}w_'}{'' if convs == 16 else f'{convs}_'}x{self.scale}"

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        x = lr
        for layer in self.body:
            x = layer(x)
        return pixel_shuffle(x, self.scale) + interpolate(lr, scale_factor=self.scale, mode="nearest")

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32). The base is added before the shuffle."""
        last = len(self.body) - 1
        steps, x = [Step("conv2d", ("lr",), "base", {"w": "nearest"})], "lr"
        for i in range(0, last, 2):
            steps.append(conv(f"body.{i}", f"maps{i // 2}", x, slopes=f"body.{i + 1}.weight"))
            x = f"maps{i // 2}"
        steps += [conv(f"body.{last}", "wide", x, "base"), shuffle("wide", "out", self.scale)]
        return lowered(steps, self.scale, self.state_dict(), {"nearest": folds.nearest(3, self.scale)})

    @staticmethod
    def matches(state: State) -> bool:
        first = state.get("body.0.weight")
        return first is not None and first.ndim == 4 and "body.2.weight" in state and "conv_first.weight" not in state

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> Compact:
        """The network of these tensors. Raises ValueError where they do not fit."""
        layers = numbered(state, r"body\.(\d+)\.")
        last = state.get(f"body.{layers - 1}.weight")
        if "body.1.weight" not in state or last is None or layers < 3 or layers % 2 == 0:
            raise ValueError("its convolutions have no PReLU between them: the file does not tell what they have")
        width, s = len(state["body.0.weight"]), side_of(len(last), 3)
        return filled(lambda: cls(s, width, (layers - 3) // 2), state)
