# SPDX-License-Identifier: Apache-2.0
"""DISP: team 18 of NTIRE 2026's challenge on efficient super-resolution, its networks ready to run (x4, 32 channels, 4 blocks).

    x = enter(lr);  out = shuffle(leave(conv1x1(blocks(x)) + x));  block: x + silu(c3(... silu(c2(silu(c1(x))))))

on RGB, all at LR size, zero borders. Set5 x4 31.94 dB with the team's weights. Names of tensors are the team's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, silu

from fastsr.families.states import State, filled, numbered, side_of
from fastsr.families.steps import conv, lowered, shuffle
from fastsr.plan import Plan

VARIANTS: dict[str, dict[str, Any]] = {f"disp_x{s}": {"scale": s} for s in (2, 3, 4)}


class DISP(nn.Module):
    """`blocks` blocks of 3 + `more` convolutions of `width` channels, on RGB in [0, 1].

    >>> DISP(scale=4)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, scale: int = 4, width: int = 32, blocks: int = 4, more: int = 1) -> None:
        super().__init__()
        self.config = {"scale": scale, "width": width, "blocks": blocks, "more": more}
        self.scale = scale
        inner = [f"_extern_conv_block.{i}" for i in range(more)]
        self.order = [f"blocks.{i}.{name}" for i in range(blocks) for name in ("c1_r", "c2_r", *inner, "c3_r")]
        self.conv_1 = _conv(3, width)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            block = nn.ModuleDict({name: _conv(width, width) for name in ("c1_r", "c2_r", "c3_r")})
            block["_extern_conv_block"] = nn.ModuleList(_conv(width, width) for _ in range(more))
            self.blocks.append(block)
        self.conv_2 = nn.Conv2d(width, width, 1)
        self.upsampler = nn.ModuleList([nn.Conv2d(width, 3 * scale * scale, 3, padding=1)])

    @property
    def name(self) -> str:
        return f"disp_x{self.scale}"

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        first = block = x = self.conv_1["eval_conv"](lr)
        for name in self.order:
            x = silu(self.get_submodule(f"{name}.eval_conv")(x))
            if name.endswith("c3_r"):
                block = x = x + block
        return pixel_shuffle(self.upsampler[0](self.conv_2(x) + first), self.scale)

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        steps, x, block = [conv("conv_1.eval_conv", "first", "lr")], "first", "first"
        for name in self.order:
            last = name.endswith("c3_r")
            steps.append(conv(f"{name}.eval_conv", name, x, *([block] if last else []), activation="silu"))
            x, block = name, name if last else block
        steps += [conv("conv_2", "body", x, "first"), conv("upsampler.0", "wide", "body")]
        return lowered([*steps, shuffle("wide", "out", self.scale)], self.scale, self.state_dict())

    @staticmethod
    def matches(state: State) -> bool:
        return {"conv_1.eval_conv.weight", "blocks.0.c1_r.eval_conv.weight"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> DISP:
        """The network of these tensors. Raises ValueError where they do not fit."""
        s, width = side_of(len(state["upsampler.0.weight"]), 3), len(state["conv_1.eval_conv.weight"])
        more = numbered(state, r"blocks\.0\._extern_conv_block\.(\d+)\.")
        return filled(lambda: cls(s, width, numbered(state, r"blocks\.(\d+)\."), more), state)


def _conv(inputs: int, outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict({"eval_conv": nn.Conv2d(inputs, outputs, 3, padding=1)})
