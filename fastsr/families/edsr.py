# SPDX-License-Identifier: Apache-2.0
"""EDSR: enhanced deep residual networks (Lim et al., CVPR workshops 2017, arXiv 1707.02921).

    x = first(255 (lr - mean));  out = last(up(after(blocks(x)) + x)) / 255 + mean;  block: x + part conv2(relu(conv1(x)))

on RGB, zero borders. The baseline has 16 blocks of 64 channels, the full network 32 of 256 and residuals of a tenth, which
no file says: `part` is told by the width. Tensors are named as in BasicSR; the authors' names are known, too. Paper, Set5
x2/x3/x4: 38.11/34.65/32.46. `part` and 1 / 255 are in the plan's weights.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from torch import Tensor, nn, tensor

from fastsr.families.states import State, filled, numbered, side_of
from fastsr.families.steps import Weights, conv, lowered, numbers, shuffle
from fastsr.plan import Plan, Step

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"edsr_x{s}": {"scale": s} for s in (2, 3, 4)},
    "edsr_256_x2": {"scale": 2, "width": 256, "blocks": 32},
}
MEAN = (0.4488, 0.4371, 0.4040)  # the mean colour of DIV2K
RANGE = 255.0


class EDSR(nn.Module):
    """`blocks` blocks of `width` channels, on RGB in [0, 1].

    >>> EDSR(scale=3)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 24, 24])
    """

    def __init__(self, scale: int = 2, width: int = 64, blocks: int = 16) -> None:
        super().__init__()
        if scale not in (2, 3, 4, 8):
            raise ValueError(f"scale {scale} is not 2, 3, 4 or 8")
        self.config = {"scale": scale, "width": width, "blocks": blocks}
        self.scale, self.part = scale, 0.1 if width >= 256 else 1.0
        self.stages = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.ModuleDict({f"conv{k}": nn.Conv2d(width, width, 3, padding=1) for k in (1, 2)}) for _ in range(blocks)
        )
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        ups: list[nn.Module] = []
        for s in self.stages:
            ups += [nn.Conv2d(width, width * s * s, 3, padding=1), nn.PixelShuffle(s)]
        self.upsample = nn.Sequential(*ups)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def name(self) -> str:
        return f"edsr_{'' if self.config['width'] == 64 else str(self.config['width']) + '_'}x{self.scale}"

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        mean = tensor(MEAN, dtype=lr.dtype)[:, None, None]
        first = x = self.conv_first((lr - mean) * RANGE)
        for block in self.body:
            x = x + self.part * block["conv2"](block["conv1"](x).relu())  # type: ignore[index]
        out: Tensor = self.conv_last(self.upsample(self.conv_after_body(x) + first))
        return out / RANGE + mean

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        state, mean = self.state_dict(), np.array(MEAN)
        made: Weights = {"range": np.full(3, RANGE, np.float32), "shift": (-RANGE * mean).astype(np.float32)}
        steps = [Step("scale_shift", ("lr",), "centred", {"scale": "range", "shift": "shift"})]
        steps.append(conv("conv_first", "first", "centred"))
        x = "first"
        for i in range(len(self.body)):
            layer = f"body.{i}.conv2"
            made |= {f"{layer}.{k}": numbers(state[f"{layer}.{k}"].double() * self.part) for k in ("weight", "bias")}
            steps += [
                conv(f"body.{i}.conv1", f"inner{i}", x, activation="relu"),
                conv(layer, f"body{i}", f"inner{i}", x),
            ]
            x = f"body{i}"
        steps.append(conv("conv_after_body", "up0", x, "first"))
        for i, s in enumerate(self.stages):
            steps += [conv(f"upsample.{2 * i}", f"wide{i}", f"up{i}"), shuffle(f"wide{i}", f"up{i + 1}", s)]
        steps.append(conv("conv_last", "out", f"up{len(self.stages)}"))
        made["conv_last.weight"] = numbers(state["conv_last.weight"].double() / RANGE)
        made["conv_last.bias"] = numbers(state["conv_last.bias"].double() / RANGE + tensor(MEAN).double())
        return lowered(steps, self.scale, state, made)

    @staticmethod
    def matches(state: State) -> bool:
        return "body.0.conv1.weight" in state or {"body.0.body.0.weight", "tail.1.weight"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> EDSR:
        """The network of these tensors. Raises ValueError where they do not fit."""
        if "head.0.weight" in state:
            state = _renamed(state)
        width, ups = len(state["conv_first.weight"]), numbered(state, r"upsample\.(\d+)\.")
        s = side_of(len(state["upsample.0.weight"]), width) ** ups
        return filled(lambda: cls(s, width, numbered(state, r"body\.(\d+)\.")), state)


def _renamed(state: State) -> dict[str, Tensor]:
    """The authors' state dict with BasicSR's names."""
    found = {}
    for name, value in state.items():
        name = re.sub(r"^body\.(\d+)\.body\.0\.", r"body.\1.conv1.", name)
        name = re.sub(r"^body\.(\d+)\.body\.2\.", r"body.\1.conv2.", name)
        name = re.sub(r"^body\.\d+\.(weight|bias)$", r"conv_after_body.\1", name)
        name = re.sub(r"^tail\.0\.(\d)\.", r"upsample.\1.", name)
        found[name.replace("head.0.", "conv_first.").replace("tail.1.", "conv_last.")] = value
    return {name: value for name, value in found.items() if not name.startswith(("sub_mean.", "add_mean."))}
