# SPDX-License-Identifier: Apache-2.0
"""RRDB: the network of ESRGAN (Wang et al., 2018, arXiv 1809.00219) and Real-ESRGAN (arXiv 2107.10833).

    x = first(lr);  x = x + trunk(blocks(x));  twice: x = leaky(up(nearest(x)));  out = last(leaky(hr(x)))

on RGB, zero borders, leaky slope 0.2. A dense block adds 0.2 conv5([x, y1 .. y4]) to x, where y_k = leaky(conv_k([x, y1 ..])),
and a block adds 0.2 of three of them to its input. x4plus has 23 blocks, x4plus_anime 6. The plan has the factors 0.2 in its
weights, and enlarges after the convolution (folds.py); the 0.2 of a block's last sum is a tap of its last convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from fastsr.families import folds
from fastsr.families.rrdb_names import known, renamed
from fastsr.families.states import State, filled, numbered
from fastsr.families.steps import Weights, conv, lowered, numbers, shuffle
from fastsr.plan import Plan

VARIANTS: dict[str, dict[str, Any]] = {"rrdb_x4": {"scale": 4}, "rrdb_6_x4": {"scale": 4, "blocks": 6}}
SLOPE = 0.2
PART = 0.2  # of a residual


class RRDB(nn.Module):
    """`blocks` blocks of three dense blocks of `width` maps that grow by `grow`, on RGB in [0, 1]; scale 1, 2, 4 or 8.

    >>> RRDB(blocks=1)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, scale: int = 4, blocks: int = 23, width: int = 64, grow: int = 32) -> None:
        super().__init__()
        if scale not in (1, 2, 4, 8):
            raise ValueError(f"scale {scale} is not 1, 2, 4 or 8")
        self.config = {"scale": scale, "blocks": blocks, "width": width, "grow": grow}
        self.scale, self.ups = scale, [f"conv_up{i + 1}" for i in range(scale.bit_length() - 1)]
        self.dense = [f"body.{i}.rdb{j}" for i in range(blocks) for j in (1, 2, 3)]
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.ModuleDict({f"rdb{j}": nn.ModuleDict(_dense(width, grow)) for j in (1, 2, 3)}) for _ in range(blocks)
        )
        for name in ("conv_body", *self.ups, "conv_hr"):
            self.add_module(name, nn.Conv2d(width, width, 3, padding=1))
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def name(self) -> str:
        return f"rrdb_{'' if self.config['blocks'] == 23 else str(self.config['blocks']) + '_'}x{self.scale}"

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        def layer(name: str, *parts: Tensor) -> Tensor:
            found: Tensor = self.get_submodule(name)(torch.cat(parts, 1))
            return found

        first = x = block = layer("conv_first", lr)
        for name in self.dense:
            parts = [x]
            for k in range(1, 5):
                parts.append(leaky_relu(layer(f"{name}.conv{k}", *parts), SLOPE))
            x = x + PART * layer(f"{name}.conv5", *parts)
            if name.endswith("rdb3"):
                x = block = block + PART * x
        x = first + layer("conv_body", x)
        for name in self.ups:
            x = leaky_relu(layer(name, interpolate(x, scale_factor=2, mode="nearest")), SLOPE)
        return layer("conv_last", leaky_relu(layer("conv_hr", x), SLOPE))

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        state, made = self.state_dict(), Weights()
        steps, x, block = [conv("conv_first", "first", "lr")], "first", "first"
        for name in self.dense:
            parts, last = [x], name.endswith("rdb3")
            for k in range(1, 5):
                steps.append(conv(f"{name}.conv{k}", f"{name}/{k}", *parts, join=k, leaky=SLOPE))
                parts.append(f"{name}/{k}")
            factor = PART**2 if last else PART
            for kind in ("weight", "bias"):
                value = state[f"{name}.conv5.{kind}"].double() * factor
                if last and kind == "weight":  # block + 0.2 (x + 0.2 conv5)
                    value[:, : len(value), 1, 1] += PART * torch.eye(len(value))
                made[f"{name}.conv5.{kind}"] = numbers(value)
            steps.append(conv(f"{name}.conv5", name, *parts, block if last else x, join=5))
            x, block = name, name if last else block
        steps.append(conv("conv_body", "body", x, "first"))
        x = "body"
        for name in self.ups:
            made[f"{name}.weight"] = folds.nearest_conv(numbers(state[f"{name}.weight"]), 2)
            made[f"{name}.bias"] = folds.repeated(numbers(state[f"{name}.bias"]), 2)
            steps += [conv(name, f"{name}/wide", x, leaky=SLOPE), shuffle(f"{name}/wide", name, 2)]
            x = name
        steps += [conv("conv_hr", "hr", x, leaky=SLOPE), conv("conv_last", "out", "hr")]
        return lowered(steps, self.scale, state, made)

    @staticmethod
    def matches(state: State) -> bool:
        """Whether these are Real-ESRGAN's names, or ESRGAN's old or oldest ones."""
        return known(state)

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> RRDB:
        """The network of these tensors. Raises ValueError where they do not fit."""
        state = renamed(state)
        first, ups = state["conv_first.weight"], numbered(state, r"conv_up(\d+)\.")
        if first.shape[1] in (12, 48):
            raise ValueError(
                "it reads the image in pixels of 2 x 2 or 4 x 4 (pixel unshuffle), which plans do not have"
            )
        blocks, grow = numbered(state, r"body\.(\d+)\."), len(state["body.0.rdb1.conv1.weight"])
        return filled(lambda: cls(2**ups, blocks, len(first), grow), state)


def _dense(width: int, grow: int) -> dict[str, nn.Module]:
    ends = [(width + k * grow, grow) for k in range(4)] + [(width + 4 * grow, width)]
    return {f"conv{k + 1}": nn.Conv2d(*sizes, 3, padding=1) for k, sizes in enumerate(ends)}
