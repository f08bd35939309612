# SPDX-License-Identifier: Apache-2.0
"""SPAN: the swift parameter-free attention network (Wan et al., NTIRE at CVPR 2024, arXiv 2311.12770).

Authors' weights, mean PSNR of Y on Set5 x2/x4: 38.07/32.23 with 48 channels; 31.74 at x4 with 28.

    h = enter(255 (lr - mean));  b_i = block_i(b_{i-1}), b_0 = h;  out = shuffle(leave(join[h, last(b_6), b_1, a_6]))

on RGB, all at LR size, zero borders. A block is c = c3(silu(c2(a))), a = silu(c1(x)), and its output
(c + x) (sigmoid(c) - 1/2): the features are their own attention. a_6 is the first activation *within* block 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, pixel_shuffle, silu

from fastsr.families.states import State, filled, numbered, side_of
from fastsr.families.steps import conv as step
from fastsr.plan import Plan, Step

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"span_x{s}": {"scale": s} for s in (2, 3, 4)},
    **{f"span_small_x{s}": {"scale": s, "width": 28} for s in (2, 3, 4)},
}
MEAN = (0.4488, 0.4371, 0.4040)  # the mean colour of DIV2K
RANGE = 255.0
INPUT = (
    1 / 64
)  # of Wide's first weight: Adam's steps are as long for every weight, too long for one of inputs up to 255
ALIGN = 8  # channels that a tensor core takes at once, in half floats

Layer = tuple[Tensor, Tensor]  # weight [Co, Ci, k, k], bias [Co]


class Block(nn.Module):
    """Three 3 x 3 convolutions (SPAB, figure 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(width, width, 3, padding=1)
        self.c2 = nn.Conv2d(width, width, 3, padding=1)
        self.c3 = nn.Conv2d(width, width, 3, padding=1)


class SPAN(nn.Module):
    """`blocks` blocks of `width` channels, on RGB in [0, 1].

    >>> SPAN(scale=3)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 3, 24, 24])
    """

    mean: Tensor
    shift: Tensor

    def __init__(self, scale: int = 2, width: int = 48, blocks: int = 6) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale {scale} is not 2, 3 or 4")
        if blocks < 1:
            raise ValueError(f"{blocks} blocks are too few: 1 at least")
        self.config = {"scale": scale, "width": width, "blocks": blocks}
        self.scale, self.width = scale, width
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("shift", -RANGE * self.mean, persistent=False)
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Conv2d(4 * width, width, 1)
        self.leave = nn.Conv2d(width, 3 * scale * scale, 3, padding=1)

    @property
    def name(self) -> str:
        kind = {48: "", 28: "small_"}.get(self.width, f"{self.width}_")
        return f"span_{kind}x{self.scale}"

    def body(self) -> list[nn.Conv2d]:
        """The convolutions from `width` to `width` channels, in order: three of each block, and `last`."""
        inner = [conv for block in self.blocks for conv in block.children()]
        return [conv for conv in (*inner, self.last) if isinstance(conv, nn.Conv2d)]

    def layers(self) -> list[Layer]:
        """All convolutions in order: enter, the body, join, leave."""
        return [_layer(conv) for conv in (self.enter, *self.body(), self.join, self.leave)]

    def forward(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]
    ) -> Tensor:  # [N, 3, h * scale, w * scale]
        return run(self.centred(lr), self.layers(), self.scale)

    def centred(self, lr: Tensor) -> Tensor:
        """What the first layer reads."""
        return lr * RANGE + self.shift

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        centre = Step("scale_shift", ("lr",), "centred", {"scale": "range", "shift": "shift"})
        steps = [centre, step("enter", "head", "centred")]
        x = "head"
        for i in range(len(self.blocks)):
            name = f"blocks.{i}"
            steps += [
                step(f"{name}.c1", f"{name}/inner", x, activation="silu"),
                step(f"{name}.c2", f"{name}/second", f"{name}/inner", activation="silu"),
                step(f"{name}.c3", name, f"{name}/second", x, gate=True),
            ]
            x = name
        joined = ("head", "last", "blocks.0", f"{x}/inner")
        steps += [step("last", "last", x), step("join", "joined", *joined, join=4), step("leave", "wide", "joined")]
        steps.append(Step("pixel_shuffle", ("wide",), "out", {}, {"scale": self.scale}))
        plan = Plan("rgb", self.scale, tuple(steps))
        state = self.state_dict() | {"range": torch.full((3,), RANGE), "shift": self.shift.flatten()}
        return plan, {name: state[name].float().numpy() for name in plan.tensor_names}

    @staticmethod
    def matches(state: State) -> bool:
        """Whether these are our names, or those of the authors' code, trained or made ready to run (`eval_conv`)."""
        return {"blocks.0.c3.weight", "join.weight"} <= state.keys() or "conv_cat.weight" in state

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> SPAN:
        """The network of these tensors. Raises ValueError where they do not fit."""
        state = _renamed(state) if "conv_cat.weight" in state else state
        blocks, s = numbered(state, r"blocks\.(\d+)\."), side_of(len(state["leave.weight"]), 3)
        return filled(lambda: cls(s, len(state["enter.weight"]), blocks), state)


def _renamed(state: State) -> dict[str, Tensor]:
    """The authors' state dict with our names, their products of kernels multiplied."""
    if "no_norm" in state:
        raise ValueError("it is of a network without a mean colour")
    blocks = numbered(state, r"block_(\d+)\.")
    names = {f"block_{i + 1}.c{k}_r": f"blocks.{i}.c{k}" for i in range(blocks) for k in (1, 2, 3)}
    names |= {"conv_1": "enter", "conv_2": "last", "conv_cat": "join", "upsampler.0": "leave"}
    found = {}
    for theirs, ours in names.items():
        layer = {kind: f"{theirs}.{kind}" for kind in ("weight", "bias")}
        if f"{theirs}.conv.0.weight" in state:
            found[f"{ours}.weight"], found[f"{ours}.bias"] = _product(state, theirs)
            continue
        if f"{theirs}.eval_conv.weight" in state:
            layer = {kind: f"{theirs}.eval_conv.{kind}" for kind in ("weight", "bias")}
        found |= {f"{ours}.{kind}": state[name] for kind, name in layer.items()}
    return found


def _product(state: State, name: str) -> Layer:
    """The 3 x 3 that the authors' Conv3XC stands for: 1 x 1, 3 x 3, 1 x 1, plus a 1 x 1 beside them."""
    (w1, b1), (w2, b2), (w3, b3) = (
        (state[f"{name}.conv.{i}.weight"].double(), state[f"{name}.conv.{i}.bias"].double()) for i in range(3)
    )
    w = torch.einsum("op,pquv,qi->oiuv", w3[:, :, 0, 0], w2, w1[:, :, 0, 0])
    w[:, :, 1:2, 1:2] += state[f"{name}.sk.weight"].double()
    b = b3 + w3[:, :, 0, 0] @ (b2 + w2.sum((2, 3)) @ b1) + state[f"{name}.sk.bias"].double()
    return w, b


def run(
    x: Tensor,  # [N, 3, h, w] or, as the first layer's weight, with zeros behind: less the mean, times RANGE
    layers: Sequence[Layer],
    scale: int,
) -> Tensor:  # [N, 3, h * scale, w * scale]
    """The network of these layers."""
    enter, *body, last, join, leave = layers
    head = x = conv2d(x, *enter, padding=1)
    first = inner = x
    for i in range(0, len(body), 3):
        inner = silu(conv2d(x, *body[i], padding=1))
        c = conv2d(silu(conv2d(inner, *body[i + 1], padding=1)), *body[i + 2], padding=1)
        x = (c + x) * (torch.sigmoid(c) - 0.5)
        if i == 0:
            first = x
    x = conv2d(torch.cat([head, conv2d(x, *last, padding=1), first, inner], 1), *join)
    out = conv2d(x, *leave, padding=1)
    return pixel_shuffle(out[:, : 3 * scale * scale], scale)


class Wide(SPAN):
    """SPAN as it is trained: a kernel W of the body is a product of larger ones (the paper's Conv3XC, figure 3).

        W[o, i, u, v] = sum over p, q of contract[o, p] conv[p, (u, v, q)] expand[q, i]  +  skip[o, i] at the centre

    The paper runs the three convolutions; here the kernels are multiplied, which costs next to nothing, and gives the
    same to the last bit of rounding with one bias for all of them. `fold` is the network it stands for. Channels are
    filled up with zeros to a multiple of ALIGN, which changes nothing but the speed.
    """

    def __init__(self, scale: int = 2, width: int = 48, blocks: int = 6, gain: int = 2) -> None:
        super().__init__(scale, width, blocks)
        n, wide = len(self.body()), gain * width
        for conv in self.body():
            conv.weight.requires_grad_(False)  # stands in for the product
        self.expand = nn.Parameter(torch.empty(n, wide, width))
        self.conv = nn.Parameter(torch.empty(n, wide, 9 * wide))
        self.contract = nn.Parameter(torch.empty(n, width, wide))
        self.skip = nn.Parameter(torch.empty(n, width, width))

    def kernels(self) -> Tensor:  # [layers, width, width, 3, 3]
        """The kernels of the body, in float32."""
        n, wide, width = self.expand.shape
        with torch.autocast(self.expand.device.type, enabled=False):
            taps = (self.contract @ self.conv).reshape(n, width * 9, wide) @ self.expand
            taps = taps.reshape(n, width, 9, width) + pad(self.skip[:, :, None], (0, 0, 4, 4))
        return taps.reshape(n, width, 3, 3, width).permute(0, 1, 4, 2, 3)

    def layers(self) -> list[Layer]:
        (enter, bias), *ends = [_layer(conv) for conv in (self.enter, self.join, self.leave)]
        body = [(w, _layer(conv)[1]) for w, conv in zip(self.kernels(), self.body(), strict=True)]
        return [(enter * INPUT, bias), *body, *ends]

    def forward(self, lr: Tensor) -> Tensor:
        (enter, *body, join, leave), more = self.layers(), -self.width % ALIGN
        parts = join[0].reshape(self.width, 4, self.width, 1)
        joined = (pad(parts, (0, 0, 0, more)).reshape(self.width, -1, 1, 1), join[1])
        layers = [_filled(enter, 3), *(_filled(layer, self.width) for layer in body), _filled(joined, 0)]
        x = pad(self.centred(lr), (0, 0, 0, 0, 0, -3 % ALIGN))
        return run(x, [*layers, _filled(leave, self.width)], self.scale)

    def fold(self) -> SPAN:
        """The network with plain convolutions that computes the same, on the same device."""
        plain = SPAN(**self.config).to(self.expand.device)
        with torch.no_grad():
            for (w, b), conv in zip(self.layers(), (plain.enter, *plain.body(), plain.join, plain.leave), strict=True):
                conv.weight.copy_(w)
                _layer(conv)[1].copy_(b)
        return plain

    def reset(
        self,
        lr: Tensor,  # [N, 3, h, w] in [0, 1]: images as those to come
        level: float = 2.0,
    ) -> None:
        """Random weights under which all of these images' features have the standard deviation `level`.

        Where sigmoid(c) - 1/2 is nearly linear a block squares its input, and six of them leave nothing of it: so each
        layer is scaled by what it gives. Three channels carry the image, and the end starts as its enlargement.
        """
        with torch.no_grad():
            for parameter in self.parameters():
                nn.init.zeros_(parameter)
            for factor in (self.expand, self.conv, self.contract):
                nn.init.normal_(factor, std=factor[0, 0].numel() ** -0.5)
            nn.init.normal_(self.enter.weight)
            x = self.centred(lr)
            self.enter.weight[:3] = 0.0
            self.enter.weight[torch.arange(3), torch.arange(3), 1, 1] = 1.0
            x = self._scaled(x, self.enter.weight, level)
            carried = self.enter.weight[0, 0, 1, 1].item()
            self.enter.weight /= INPUT
            for i in range(0, len(self.expand) - 1, 3):
                a = silu(self._scaled(x, self.contract[i], level, i))
                c = self._scaled(
                    silu(self._scaled(a, self.contract[i + 1], level, i + 1)), self.contract[i + 2], level, i + 2
                )
                x = (c + x) * (torch.sigmoid(c) - 0.5)
            self._scaled(x, self.contract[-1], level, len(self.expand) - 1)
            nn.init.normal_(self.join.weight, std=0.1 * self.join.weight[0].numel() ** -0.5)
            self.join.weight[:3] = 0.0
            self.join.weight[torch.arange(3), torch.arange(3)] = 1.0
            taps = self.leave.weight.view(3, self.scale**2, self.width, 3, 3)
            for channel in range(3):
                taps[channel, :, channel] = linear(self.scale) / (RANGE * carried)
            assert self.leave.bias is not None
            self.leave.bias.copy_(self.mean.flatten().repeat_interleave(self.scale**2))

    def _scaled(self, x: Tensor, factor: Tensor, level: float, i: int | None = None) -> Tensor:
        """The output of the first layer or of number `i` of the body, which `factor`, scaled here, gives `level`."""
        out = conv2d(x, self.enter.weight if i is None else self.kernels()[i], padding=1)
        by = level / out.std()
        factor *= by
        return out * by

    def take(self, tensors: dict[str, Tensor], scale: int) -> int:
        """Take over the tensors of a network of this width at another scale. Returns how many.

        `leave` gives each pixel what the one nearest to its place had.
        """
        own = self.state_dict()
        same = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
        if scale != self.scale:
            nearest = [(2 * i + 1) * scale // (2 * self.scale) for i in range(self.scale)]
            rows = torch.tensor([c * scale**2 + i * scale + j for c in range(3) for i in nearest for j in nearest])
            same |= {k: tensors[k][rows] for k in ("leave.weight", "leave.bias") if k in tensors}
        self.load_state_dict(own | same)
        return len(same)


def linear(scale: int) -> Tensor:  # [scale * scale, 3, 3]
    """The taps of bilinear enlargement, phase by phase."""
    at = (torch.arange(scale) + 0.5) / scale - 0.5
    taps = (1 - (at[:, None] - torch.arange(-1, 2)).abs()).clamp(min=0)
    return (taps[:, None, :, None] * taps[None, :, None, :]).reshape(scale * scale, 3, 3)


def _layer(conv: nn.Conv2d) -> Layer:
    assert conv.bias is not None
    return conv.weight, conv.bias


def _filled(layer: Layer, inputs: int) -> Layer:
    """With zeros so that channels of both sides are a multiple of ALIGN; `inputs` are there (0: enough)."""
    w, b = layer
    more = -len(b) % ALIGN
    return pad(w, (0, 0, 0, 0, 0, -inputs % ALIGN, 0, more)), pad(b, (0, more))
