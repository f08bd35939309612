# SPDX-License-Identifier: Apache-2.0
"""BTSRN: the balanced two-stage residual network (paper 002).

Paper, mean PSNR of Y x2/x3/x4: Set5 37.75/34.03/31.85, Set14 33.20/29.90/28.20, BSD100 32.05/28.97/27.47.

    out = bicubic(lr) + W_out act(high(up(low(W_in (lr - 0.5)))))                                        (figure 1)

on RGB: six PConv blocks at LR size, the enlargement (x4: twice x2 with a block between), four PConv blocks at HR size.
The paper draws relu, its authors' code has a leaky one of 0.2: `slope`. Borders are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastsr.families.states import State, filled, numbered
from fastsr.ops import conv2d, pconv_block, resize_bicubic, upsample_residual
from fastsr.plan import Plan, Step

VARIANTS: dict[str, dict[str, Any]] = {f"btsrn_x{s}": {"scale": s} for s in (2, 3, 4)}


class PConvBlock(nn.Module):
    """x + W3 act(W1 act(x)): `width` maps projected to `bottleneck` before the 3 x 3 (figure 2d)."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, bottleneck, 1)
        self.conv = nn.Conv2d(bottleneck, width, 3, padding=1)

    def weights(self) -> dict[str, Tensor]:
        found = {"w1": self.project.weight, "b1": self.project.bias, "w3": self.conv.weight, "b3": self.conv.bias}
        return {role: value for role, value in found.items() if value is not None}

    def forward(self, x: Tensor, activation: str, slope: float) -> Tensor:
        return pconv_block.reference(x, **self.weights(), activation=activation, slope=slope)


class BTSRN(nn.Module):
    """`low` blocks at LR size, the enlargement, `high` blocks at HR size, on RGB in [0, 1].

    >>> BTSRN(scale=3)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 24, 24])
    """

    def __init__(
        self, scale: int = 3, width: int = 128, bottleneck: int = 64, low: int = 6, high: int = 4, slope: float = 0.0
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale {scale} is not 2, 3 or 4")
        sizes = {"width": width, "bottleneck": bottleneck, "low": low, "high": high}
        self.config = {"scale": scale, **sizes, "slope": slope}
        self.scale, self.slope = scale, slope
        self.activation = "leaky_relu" if slope else "relu"
        stages = [2, 2] if scale == 4 else [scale]
        self.enter = nn.Conv2d(3, width, 1)
        self.low = nn.ModuleList(PConvBlock(width, bottleneck) for _ in range(low))
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, s, stride=s) for s in stages)
        self.between = nn.ModuleList(PConvBlock(width, bottleneck) for _ in stages[1:])
        self.high = nn.ModuleList(PConvBlock(width, bottleneck) for _ in range(high))
        self.leave = nn.Conv2d(width, 3, 1)

    @property
    def name(self) -> str:
        return f"btsrn_x{self.scale}"

    def reset(self) -> None:
        """He initialisation; every residual branch starts small and the whole as bicubic, so that depth does no harm."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, PConvBlock):
                    module.conv.weight *= 0.3
                elif isinstance(module, nn.ConvTranspose2d):
                    module.weight *= 0.3
            self.leave.weight *= 0.01

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        return resize_bicubic.reference(lr, scale=self.scale) + self.residual(lr)

    def residual(
        self,
        lr: Tensor,  # [N, 3, h, w]
    ) -> Tensor:  # [N, 3, h * scale, w * scale], to be added to the bicubic image
        how: dict[str, Any] = {"activation": self.activation, "slope": self.slope}
        x = self.enter(lr - 0.5)
        for block in self.low:
            x = block(x, **how)
        for i, up in enumerate(self.up):
            assert isinstance(up, nn.ConvTranspose2d)
            if i:
                x = self.between[i - 1](x, **how)
            x = upsample_residual.reference(x, w=up.weight, b=up.bias, scale=up.stride[0], **how)
        for block in self.high:
            x = block(x, **how)
        return self.leave(conv2d.act(x, self.activation, self.slope))  # type: ignore[no-any-return]

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        state = self.state_dict() | {"less": torch.full((3,), -0.5)}
        how: dict[str, Any] = {"activation": self.activation, "slope": self.slope}
        steps = [
            Step("resize_bicubic", ("lr",), "bicubic", {}, {"scale": self.scale}),
            Step("scale_shift", ("lr",), "centred", {"shift": "less"}),
            Step("conv2d", ("centred",), "enter", {"w": "enter.weight", "b": "enter.bias"}),
        ]
        x = "enter"

        def add(op: str, out: str, roles: dict[str, str], **params: Any) -> None:
            nonlocal x
            steps.append(Step(op, (x,), out, roles, {**how, **params}))
            x = out

        def block(name: str) -> None:
            roles = {"w1": "project.weight", "b1": "project.bias", "w3": "conv.weight", "b3": "conv.bias"}
            add("pconv_block", name, {role: f"{name}.{key}" for role, key in roles.items()})

        for i in range(len(self.low)):
            block(f"low.{i}")
        for i, up in enumerate(self.up):
            assert isinstance(up, nn.ConvTranspose2d)
            if i:
                block(f"between.{i - 1}")
            roles = {"w": f"up.{i}.weight", "b": f"up.{i}.bias"}
            add("upsample_residual", f"up.{i}", roles, scale=int(up.stride[0]))
        for i in range(len(self.high)):
            block(f"high.{i}")
        params: dict[str, Any] = {"input_activation": self.activation, "slope": self.slope}
        steps.append(Step("conv2d", (x, "bicubic"), "out", {"w": "leave.weight", "b": "leave.bias"}, params))
        plan = Plan("rgb", self.scale, tuple(steps))
        return plan, {name: state[name].float().numpy() for name in plan.tensor_names}

    @staticmethod
    def matches(state: State) -> bool:
        return {"low.0.project.weight", "up.0.weight", "leave.weight"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> BTSRN:
        """The network of these tensors, with relu, which they do not tell. Raises ValueError where they do not fit."""
        side, stages = int(state["up.0.weight"].shape[-1]), numbered(state, r"up\.(\d+)\.")
        sizes = {kind: numbered(state, rf"{kind}\.(\d+)\.") for kind in ("low", "high")}
        bottleneck, width = state["low.0.project.weight"].shape[:2]
        return filled(lambda: cls(side**stages, int(width), int(bottleneck), **sizes), state)
