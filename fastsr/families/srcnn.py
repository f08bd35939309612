# SPDX-License-Identifier: Apache-2.0
"""SRCNN: the super-resolution convolutional neural network (paper 001).

Paper, mean PSNR of Y on Set5 x2/x3/x4: 9-5-5 on ImageNet 36.66/32.75/30.49, 9-1-5 on 91 images 36.34/32.39/30.09;
Set14, 9-5-5: 32.45/29.30/27.50.

    F1 = max(0, W1 * Y + B1),  F2 = max(0, W2 * F1 + B2),  F = W3 * F2 + B3        (Eq. 1-3)

Y is the bicubic image. Borders are replicated at every layer, as in the authors' test code. Deeper variants (section
4.3.3) have more than three sizes. Versions in PyTorch pad with zeros: `border` is for their checkpoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastsr.errors import InputError
from fastsr.families.states import State, filled
from fastsr.ops import conv2d, resize_bicubic
from fastsr.plan import Plan, Step

VARIANTS = {
    **{f"srcnn_955_x{s}": {"scale": s, "sizes": (9, 5, 5)} for s in (2, 3, 4)},
    **{f"srcnn_915_x{s}": {"scale": s, "sizes": (9, 1, 5)} for s in (2, 3, 4)},
    "srcnn_935_x3": {"scale": 3, "sizes": (9, 3, 5)},
    "srcnn_9115_x3": {"scale": 3, "sizes": (9, 1, 1, 5), "maps": (64, 32, 16)},
    "srcnn_915_rgb_x3": {"scale": 3, "sizes": (9, 1, 5), "channels": 3},
}


class SRCNN(nn.Module):
    """bicubic -> convolutions of the given sizes, relu between, on Y (channels = 1) or RGB (channels = 3) in [0, 1].

    >>> SRCNN(scale=3)(torch.rand(1, 1, 8, 8)).shape
    torch.Size([1, 1, 24, 24])
    """

    def __init__(
        self,
        scale: int = 3,
        sizes: Sequence[int] = (9, 5, 5),
        maps: Sequence[int] = (64, 32),
        channels: int = 1,
        border: str = "replicate",
    ) -> None:
        super().__init__()
        if len(maps) != len(sizes) - 1:
            raise ValueError(f"{len(sizes)} layers have {len(sizes) - 1} widths between them, not {len(maps)}")
        self.config = {"scale": scale, "sizes": list(sizes), "maps": list(maps), "channels": channels, "border": border}
        self.scale = scale
        self.border = border
        widths = [channels, *maps, channels]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], k, padding=k // 2) for i, k in enumerate(sizes))

    @property
    def name(self) -> str:
        rgb = "_rgb" if self.config["channels"] == 3 else ""
        return f"srcnn_{''.join(str(conv.kernel_size[0]) for conv in self.layers)}{rgb}_x{self.scale}"

    @property
    def layers(self) -> list[nn.Conv2d]:
        return [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]

    @property
    def radius(self) -> int:
        """Pixels around an output pixel that it depends on."""
        return sum(conv.kernel_size[0] // 2 for conv in self.layers)

    def reset(self) -> None:
        """He initialisation, beside a path through the first maps that hands the bicubic image on unchanged.

        The image is not negative, so relu lets it pass. What starts as bicubic saves most of the paper's 10^8 steps.
        """
        channels = self.layers[0].in_channels
        for i, conv in enumerate(self.layers):
            last = i + 1 == len(self.layers)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                if i == 0:
                    conv.weight -= conv.weight.mean((1, 2, 3), keepdim=True)
                if last:
                    conv.weight *= 0.01
                r = conv.kernel_size[0] // 2
                for c in range(channels):
                    conv.weight[c] = 0
                    conv.weight[c, c, r, r] = 1

    def forward(
        self,
        lr: Tensor,  # [N, channels, h, w] in [0, 1]
    ) -> Tensor:  # [N, channels, h * scale, w * scale]
        y = resize_bicubic.reference(lr, scale=self.scale)
        for i, conv in enumerate(self.layers):
            activation = "none" if i + 1 == len(self.convs) else "relu"
            y = conv2d.reference(y, w=conv.weight, b=conv.bias, border=self.border, activation=activation)
        return y

    def interior(
        self,
        x: Tensor,  # [N, channels, H, W], bicubic
        half: bool = False,
    ) -> Tensor:  # [N, channels, H - 2r, W - 2r]
        """The output where no border is read: what training looks at. `half` computes in bfloat16 between the ends."""
        y = x
        for i, conv in enumerate(self.layers):
            last = i + 1 == len(self.convs)
            w = conv.weight.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half and i > 0 and not last):
                y = nn.functional.conv2d(y.float() if last else y, w, conv.bias)
            y = y if last else y.relu_()
        return y

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        steps = [Step("resize_bicubic", ("lr",), "bicubic", {}, {"scale": self.scale})]
        x = "bicubic"
        for i in range(len(self.convs)):
            last = i + 1 == len(self.convs)
            out = "out" if last else f"maps{i}"
            params = {"border": self.border, "activation": "none" if last else "relu"}
            steps.append(Step("conv2d", (x,), out, {"w": f"convs.{i}.weight", "b": f"convs.{i}.bias"}, params))
            x = out
        plan = Plan("y" if self.config["channels"] == 1 else "rgb", self.scale, tuple(steps))
        state = self.state_dict()
        return plan, {name: state[name].float().numpy() for name in plan.tensor_names}

    @staticmethod
    def matches(state: State) -> bool:
        """Whether these are three or more convolutions in a row, under any names, from an image to one of as many channels."""
        shapes = [tuple(w.shape) for w in state.values() if w.ndim == 4]
        biases = [state.get(name.removesuffix("weight") + "bias") for name, w in state.items() if w.ndim == 4]
        return (
            len(shapes) >= 3
            and len(state) == 2 * len(shapes)
            and shapes[0][1] == shapes[-1][0]
            and shapes[0][1] in (1, 3)
            and all(a[0] == b[1] for a, b in itertools.pairwise(shapes))
            and all(s[2] == s[3] and s[2] % 2 == 1 and s[2] <= 31 for s in shapes)
            and all(b is not None and b.shape == (s[0],) for b, s in zip(biases, shapes, strict=True))
        )

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> SRCNN:
        """The network of these tensors. Raises InputError without a scale."""
        if scale is None:
            raise InputError("does not say its scale: give it (scale=3, --scale 3)")
        names = [name.removesuffix("weight") for name, w in state.items() if w.ndim == 4]
        shapes = [tuple(state[f"{name}weight"].shape) for name in names]
        # PyTorch versions pad with zeros; the paper's code, and ours, replicate.
        own = names == [f"convs.{i}." for i in range(len(names))]
        sizes, maps = [s[2] for s in shapes], [s[0] for s in shapes[:-1]]
        renamed = {
            f"convs.{i}.{kind}": state[name + kind] for i, name in enumerate(names) for kind in ("weight", "bias")
        }
        return filled(lambda: cls(scale, sizes, maps, shapes[0][1], "replicate" if own else "zero"), renamed)
