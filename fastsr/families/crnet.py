# SPDX-License-Identifier: Apache-2.0
"""CRNet-A and CRNet-B: super-resolution by learnt convolutional sparse coding (paper 004).

Paper, mean PSNR of Y x2/x3/x4: A: Set5 37.79/34.11/31.82, Set14 33.33/29.99/28.29, BSD100 32.09/28.99/27.44;
B: Set5 38.13/34.75/32.57, Set14 34.09/30.58/28.79, BSD100 32.32/29.26/27.73.

    y = relu(F1 * relu(F0 * x)),  z = cista(y; W_l, S, K),  R = H * relu(W_h * z),  out = x + R          (Eq. 11-14)

A works on Y of the bicubic image, one set of weights for all scales. B works on the LR image, RGB less its mean colour,
with a residual unit before and an enlargement behind for each scale (section 4.2, figure 6), and a skip from the head to
the codes' maps. No biases; zero borders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastsr.errors import InputError
from fastsr.families.states import State, filled
from fastsr.ops import cista, pixel_shuffle, resize_bicubic
from fastsr.plan import Plan, Step

MEAN = (0.4488, 0.4371, 0.4040)
"""mean colour of DIV2K's training images, in [0, 1]"""

VARIANTS: dict[str, dict[str, Any]] = {f"crnet_{kind}_x{s}": {"scale": s} for kind in "ab" for s in (2, 3, 4)}


def _conv(ci: int, co: int) -> nn.Conv2d:
    return nn.Conv2d(ci, co, 3, padding=1, bias=False)


class Codes(nn.Module):
    """The body of both networks: features to sparse codes z and back to maps.

    y [n0] -> relu(F1 y) -> cista -> W_h z [n0]
    """

    def __init__(self, n0: int, m0: int, steps: int) -> None:
        super().__init__()
        self.f1 = _conv(n0, n0)
        self.wl = _conv(n0, m0)
        self.s = _conv(m0, m0)
        self.wh = _conv(m0, n0)
        self.steps = steps

    def reset(self) -> None:
        """He initialisation, S small: what is repeated `steps` times must begin as a contraction."""
        for conv in (self.f1, self.wl, self.wh):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.s.weight, nonlinearity="relu")
        with torch.no_grad():
            self.s.weight *= 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = self.f1(x).relu()
        z = cista.reference(y, w=self.wl.weight, s=self.s.weight, steps=self.steps)
        return self.wh(z)  # type: ignore[no-any-return]

    def lower(self, prefix: str, x: str) -> list[Step]:
        """Steps from value `x` to the value "codes"."""
        roles = {"w": f"{prefix}.wl.weight", "s": f"{prefix}.s.weight"}
        return [
            Step("conv2d", (x,), "features", {"w": f"{prefix}.f1.weight"}, {"activation": "relu"}),
            Step("cista", ("features",), "codes", roles, {"steps": self.steps}),
        ]


class CRNetA(nn.Module):
    """CRNet-A, on Y in [0, 1]: `n0` feature maps, `m0` codes, `steps` recursions (the paper's K).

    >>> CRNetA(scale=2, steps=2)(torch.rand(1, 1, 8, 8)).shape
    torch.Size([1, 1, 16, 16])
    """

    def __init__(self, scale: int = 3, n0: int = 128, m0: int = 256, steps: int = 25) -> None:
        super().__init__()
        self.config = {"scale": scale, "n0": n0, "m0": m0, "steps": steps}
        self.scale = scale
        self.f0 = _conv(1, n0)
        self.body = Codes(n0, m0, steps)
        self.h = _conv(n0, 1)

    @property
    def name(self) -> str:
        return f"crnet_a_x{self.scale}"

    @staticmethod
    def matches(state: State) -> bool:
        return {"f0.weight", "body.wl.weight", "h.weight"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> CRNetA:
        """The network of these tensors with the paper's 25 recursions, of which they do not tell."""
        if scale is None:
            raise InputError("does not say its scale: give it (scale=3, --scale 3)")
        m0, n0 = state["body.wl.weight"].shape[:2]
        return filled(lambda: cls(scale, int(n0), int(m0)), state)

    def reset(self) -> None:
        """Starts as bicubic: the last layer is almost zero."""
        nn.init.kaiming_normal_(self.f0.weight, nonlinearity="relu")
        self.body.reset()
        nn.init.normal_(self.h.weight, std=1e-3)

    def residual(
        self,
        bicubic: Tensor,  # [N, 1, H, W]
    ) -> Tensor:  # [N, 1, H, W], R of Eq. 13
        return self.h(self.body(self.f0(bicubic).relu()).relu())  # type: ignore[no-any-return]

    def forward(
        self,
        lr: Tensor,  # [N, 1, h, w]
    ) -> Tensor:  # [N, 1, h * scale, w * scale]
        bicubic = resize_bicubic.reference(lr, scale=self.scale)
        return bicubic + self.residual(bicubic)

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        steps = [
            Step("resize_bicubic", ("lr",), "bicubic", {}, {"scale": self.scale}),
            Step("conv2d", ("bicubic",), "low", {"w": "f0.weight"}, {"activation": "relu"}),
            *self.body.lower("body", "low"),
            Step("conv2d", ("codes",), "maps", {"w": "body.wh.weight"}, {"activation": "relu"}),
            Step("conv2d", ("maps", "bicubic"), "out", {"w": "h.weight"}),
        ]
        return _with_weights(self, Plan("y", self.scale, tuple(steps)))


class Unit(nn.Module):
    """x + conv(relu(conv(x))): reduces the differences between scales before the shared body."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.conv1 = _conv(maps, maps)
        self.conv2 = _conv(maps, maps)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).relu())  # type: ignore[no-any-return]


class CRNetB(nn.Module):
    """CRNet-B, on RGB in [0, 1]: branches for each of `scales`, of which `scale` is run.

    >>> CRNetB(scale=2, m0=64, steps=2)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 16, 16])
    """

    mean: Tensor

    def __init__(
        self, scale: int = 3, n0: int = 64, m0: int = 1024, steps: int = 25, scales: Sequence[int] = (2, 3, 4)
    ) -> None:
        super().__init__()
        if scale not in scales:
            raise ValueError(f"scale {scale} is not one of {list(scales)}")
        self.config = {"scale": scale, "n0": n0, "m0": m0, "steps": steps, "scales": list(scales)}
        self.scale = scale
        self.register_buffer("mean", torch.tensor(MEAN))
        self.head = _conv(3, n0)
        self.before = nn.ModuleDict({str(s): Unit(n0) for s in scales})
        self.body = Codes(n0, m0, steps)
        self.up = nn.ModuleDict({str(s): nn.ModuleList(_conv(n0, n0 * f * f) for f in self.factors(s)) for s in scales})
        self.tail = nn.ModuleDict({str(s): _conv(n0, 3) for s in scales})

    @property
    def name(self) -> str:
        return f"crnet_b_x{self.scale}"

    @staticmethod
    def matches(state: State) -> bool:
        return {"head.weight", "body.wl.weight", "mean"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> CRNetB:
        """The network of these tensors with the paper's 25 recursions, of which they do not tell."""
        scales = sorted({int(name.split(".")[1]) for name in state if re.match(r"tail\.[2-8]\.weight$", name)})
        if scale is None and len(scales) != 1:
            raise InputError(f"is for scales {', '.join(map(str, scales))}: give one (scale=3, --scale 3)")
        m0, n0 = state["body.wl.weight"].shape[:2]
        return filled(lambda: cls(scale or scales[0], int(n0), int(m0), scales=scales), state)

    @staticmethod
    def factors(scale: int) -> list[int]:
        return [2, 2] if scale == 4 else [scale]

    def reset(self) -> None:
        """He initialisation; the branches of sums start small."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        self.body.reset()
        with torch.no_grad():
            self.body.wh.weight *= 0.1
            for unit in self.before.values():
                unit.conv2.weight *= 0.1  # type: ignore[union-attr, operator]

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w]
        scale: int | None = None,  # of `scales`; None: self.scale
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        key = str(scale or self.scale)
        mean = self.mean[:, None, None]
        head = self.head(lr - mean)
        x = self.body(self.before[key](head)) + head
        up = self.up[key]
        assert isinstance(up, nn.ModuleList)
        for conv, factor in zip(up, self.factors(int(key)), strict=True):
            x = pixel_shuffle.reference(conv(x), scale=factor)
        return self.tail[key](x) + mean  # type: ignore[no-any-return]

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan of `scale` and its weights (float32); other scales' branches are left out."""
        key = str(self.scale)
        unit = f"before.{key}"
        steps = [
            Step("scale_shift", ("lr",), "centred", {"shift": "less"}),
            Step("conv2d", ("centred",), "head", {"w": "head.weight"}),
            Step("conv2d", ("head",), "unit", {"w": f"{unit}.conv1.weight"}, {"activation": "relu"}),
            Step("conv2d", ("unit", "head"), "before", {"w": f"{unit}.conv2.weight"}),
            *self.body.lower("body", "before"),
            Step("conv2d", ("codes", "head"), "maps", {"w": "body.wh.weight"}),
        ]
        x = "maps"
        for i, factor in enumerate(self.factors(self.scale)):
            steps.append(Step("conv2d", (x,), f"wide{i}", {"w": f"up.{key}.{i}.weight"}))
            steps.append(Step("pixel_shuffle", (f"wide{i}",), f"large{i}", {}, {"scale": factor}))
            x = f"large{i}"
        steps.append(Step("conv2d", (x,), "out", {"w": f"tail.{key}.weight", "b": "mean"}))
        return _with_weights(self, Plan("rgb", self.scale, tuple(steps)), less=-self.mean)


def _with_weights(model: nn.Module, plan: Plan, **more: Tensor) -> tuple[Plan, dict[str, np.ndarray]]:
    state = model.state_dict() | more
    return plan, {name: state[name].float().numpy() for name in plan.tensor_names}
