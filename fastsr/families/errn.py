# SPDX-License-Identifier: Apache-2.0
"""ERRN: team 20 of NTIRE 2026's challenge on efficient super-resolution, ready to run (ERRN2: x4, 32 channels, 6 blocks).

    x = enter(lr);  out = shuffle(leave(conv(blocks(x)) + x))

A block is c = rep4(leaky(rep3(leaky(rep2(leaky(rep1(x))))))) and its output (c + x) (sigmoid(c) - 1/2), as SPAN's; leaky
slope 0.1. On RGB, all at LR size, zero borders. Set5 x4 31.89 dB with the team's weights. Names of tensors are the team's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pixel_shuffle

from fastsr.families.states import State, filled, numbered, side_of
from fastsr.families.steps import conv, lowered, shuffle
from fastsr.plan import Plan

VARIANTS: dict[str, dict[str, Any]] = {f"errn_x{s}": {"scale": s} for s in (2, 4)}
SLOPE = 0.1


class ERRN(nn.Module):
    """`blocks` blocks of four convolutions of `width` channels, on RGB in [0, 1].

    >>> ERRN(scale=4)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, scale: int = 4, width: int = 32, blocks: int = 6) -> None:
        super().__init__()
        self.config = {"scale": scale, "width": width, "blocks": blocks}
        self.scale = scale
        self.conv_1 = nn.Conv2d(3, width, 3, padding=1)
        for i in range(blocks):
            convs = {f"rep{k}": nn.Conv2d(width, width, 3, padding=1) for k in (1, 2, 3, 4)}
            self.add_module(
                f"block_{i + 1}", nn.ModuleDict({k: nn.ModuleDict({"rep_conv": v}) for k, v in convs.items()})
            )
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = nn.ModuleList([nn.Conv2d(width, 3 * scale * scale, 3, padding=1)])

    @property
    def name(self) -> str:
        return f"errn_x{self.scale}"

    @property
    def order(self) -> list[str]:
        """The blocks' names."""
        return [f"block_{i + 1}" for i in range(self.config["blocks"])]

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        first = x = self.conv_1(lr)
        for name in self.order:
            c = x
            for k in (1, 2, 3, 4):
                c = self.get_submodule(f"{name}.rep{k}.rep_conv")(leaky_relu(c, SLOPE) if k > 1 else c)
            x = (c + x) * (torch.sigmoid(c) - 0.5)
        return pixel_shuffle(self.upsampler[0](self.conv_2(x) + first), self.scale)

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        steps, x = [conv("conv_1", "first", "lr")], "first"
        for name in self.order:
            inner = x
            for k in (1, 2, 3):
                layer, out = f"{name}.rep{k}.rep_conv", f"{name}/{k}"
                steps.append(conv(layer, out, inner, leaky=SLOPE))
                inner = out
            steps.append(conv(f"{name}.rep4.rep_conv", name, inner, x, gate=True))
            x = name
        steps += [conv("conv_2", "body", x, "first"), conv("upsampler.0", "wide", "body")]
        return lowered([*steps, shuffle("wide", "out", self.scale)], self.scale, self.state_dict())

    @staticmethod
    def matches(state: State) -> bool:
        return "block_1.rep1.rep_conv.weight" in state

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> ERRN:
        """The network of these tensors. Raises ValueError where they do not fit."""
        s, width = side_of(len(state["upsampler.0.weight"]), 3), len(state["conv_1.weight"])
        return filled(lambda: cls(s, width, numbered(state, r"block_(\d+)\.")), state)
