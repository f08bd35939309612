# SPDX-License-Identifier: Apache-2.0
"""ANNet: the anchored neighbourhood deep network (paper 000).

Paper, mean PSNR of Y (5-3 unless noted): Set5 x2/x3/x4 36.73/32.80/30.38, Set14 32.43/29.28/27.40; 9-5-5-3: Set5 x3 33.05.

What the paper leaves open and fastsr chose: d = 64 maps; filters of 5s x 5s, so that the features are exactly those of
A+ (gradients and Laplacians of a 3s x 3s patch, projected by PCA); symmetric borders everywhere, so that every output
pixel is covered by 9 patches; the integration subnetwork predicts what is missing from the combination (identity in
the last layer), which is Eq. 6-7 with the identity taken out and is easier to train.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from fastsr.families.states import State, filled
from fastsr.ops import anchored_regression, conv2d, resize_bicubic
from fastsr.plan import Plan, Step

FEATURES = {2: 28, 3: 30, 4: 30}
"""n1 of the paper, section 5.1, per scale."""

VARIANTS = {
    "annet_x2": {"scale": 2, "sizes": (5, 3)},
    "annet_x3": {"scale": 3, "sizes": (5, 3)},
    "annet_x4": {"scale": 4, "sizes": (5, 3)},
    "annet_9553_x3": {"scale": 3, "sizes": (9, 5, 5, 3)},
}


class Integration(nn.Module):
    """The deep integration subnetwork (Eq. 6-7): convolutions of the given sizes, `maps` wide, relu between."""

    def __init__(self, sizes: tuple[int, ...] = (5, 3), maps: int = 64) -> None:
        super().__init__()
        channels = [1] + [maps] * (len(sizes) - 1) + [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], k, padding=k // 2) for i, k in enumerate(sizes)
        )

    def reset(self) -> None:
        """He initialisation (section 5.1); the last layer starts at zero, where the network is the combination."""
        for conv in self.layers:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            # Maps that start without a mean see structure, not brightness.
            first, last = self.layers[0].weight, self.layers[-1].weight
            first -= first.mean((1, 2, 3), keepdim=True)
            last.zero_()

    @property
    def layers(self) -> list[nn.Conv2d]:
        return [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]

    def forward(
        self,
        x: Tensor,  # [N, 1, H, W]
    ) -> Tensor:  # [N, 1, H, W]
        y = x
        for i, conv in enumerate(self.layers):
            activation = "none" if i + 1 == len(self.convs) else "relu"
            y = conv2d.reference(y, w=conv.weight, b=conv.bias, border="symmetric", activation=activation)
        return x + y

    def interior(
        self,
        x: Tensor,  # [N, 1, H, W]
        half: bool = False,
    ) -> Tensor:  # [N, 1, H - 2r, W - 2r]
        """The output where no border is read: what training looks at, free of padding's cost.

        `half` computes in bfloat16 after the first layer, whose input, near 1, would lose half a grey level.
        """
        y = x
        for i, conv in enumerate(self.layers[:-1]):
            w = conv.weight.contiguous(memory_format=torch.channels_last)  # a quarter faster between wide layers
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half and i > 0):
                y = nn.functional.conv2d(y, w, conv.bias).relu_()
        last, r = self.layers[-1], self.radius
        assert last.bias is not None
        # One map out of many: k * k pointwise maps, shifted and summed, take half the time of a k x k convolution.
        k = last.kernel_size[0]
        h, cols = (n - 2 * r for n in x.shape[-2:])
        taps = nn.functional.conv2d(y.float(), last.weight[0].flatten(1).T[:, :, None, None])
        out = x[:, 0, r : r + h, r : r + cols] + last.bias
        for i, j in np.ndindex(k, k):
            out = out + taps[:, k * i + j, i : i + h, j : j + cols]
        return out[:, None]

    @property
    def radius(self) -> int:
        """Pixels around an output pixel that it depends on."""
        return sum(conv.kernel_size[0] // 2 for conv in self.layers)


class ANNet(nn.Module):
    """bicubic -> anchored regression -> deep integration, for one scale, on Y in [0, 1].

    >>> ANNet(scale=3)(torch.rand(1, 1, 8, 8)).shape
    torch.Size([1, 1, 24, 24])
    """

    filters: Tensor  # [n1, 5s, 5s], on the bicubic image; the plan's are composed with the upscaling
    atoms: Tensor  # [A, n1]
    projections: Tensor  # [A, 9 s s, n1]

    def __init__(
        self, scale: int = 3, sizes: tuple[int, ...] = (5, 3), maps: int = 64, atoms: int = 1024, features: int = 0
    ) -> None:
        super().__init__()
        n1 = features or FEATURES.get(scale, 30)
        self.config = {"scale": scale, "sizes": list(sizes), "maps": maps, "atoms": atoms, "features": n1}
        self.scale = scale
        # The anchored layer is transferred, not trained (section 4.4): buffers.
        self.register_buffer("filters", torch.randn(n1, 5 * scale, 5 * scale) / (5 * scale))
        self.register_buffer("atoms", nn.functional.normalize(torch.randn(atoms, n1)))
        self.register_buffer("projections", torch.randn(atoms, 9 * scale * scale, n1) / n1)
        self.integration = Integration(sizes, maps) if sizes else None

    @property
    def name(self) -> str:
        sizes = self.config["sizes"]
        kind = {(5, 3): "", (): "plain_"}.get(tuple(sizes), f"{''.join(map(str, sizes))}_")  # type: ignore[call-overload, arg-type]
        return f"annet_{kind}x{self.scale}"

    def combine(
        self,
        lr: Tensor,  # [N, 1, h, w]
    ) -> Tensor:  # [N, 1, h * scale, w * scale]
        """The anchored layer and the combination (sections 4.2-4.3)."""
        filters = torch.from_numpy(anchored_regression.compose(self.filters.numpy(), self.scale))
        return anchored_regression.reference(
            lr,
            resize_bicubic.reference(lr, scale=self.scale),
            filters=filters.to(lr.dtype),
            atoms=self.atoms,
            projections=self.projections,
            scale=self.scale,
        )

    def forward(
        self,
        lr: Tensor,  # [N, 1, h, w] in [0, 1]
    ) -> Tensor:  # [N, 1, h * scale, w * scale]
        y = self.combine(lr)
        return y if self.integration is None else self.integration(y)

    def lower(self) -> tuple[Plan, dict[str, np.ndarray]]:
        """The plan and its weights (float32)."""
        convs = list(self.integration.convs) if self.integration else []
        roles = {role: role for role in ("filters", "atoms", "projections")}
        combined = "combined" if convs else "out"
        steps = [
            Step("resize_bicubic", ("lr",), "bicubic", {}, {"scale": self.scale}),
            Step("anchored_regression", ("lr", "bicubic"), combined, roles, {"scale": self.scale}),
        ]
        x = combined
        for i in range(len(convs)):
            last = i + 1 == len(convs)
            steps.append(
                Step(
                    "conv2d",
                    (x, combined) if last else (x,),
                    "out" if last else f"maps{i}",
                    {"w": f"integration.convs.{i}.weight", "b": f"integration.convs.{i}.bias"},
                    {"border": "symmetric", "activation": "none" if last else "relu"},
                )
            )
            x = f"maps{i}"
        state = self.state_dict()
        plan = Plan("y", self.scale, tuple(steps))
        weights = {name: state[name].float().numpy() for name in plan.tensor_names}
        weights["filters"] = anchored_regression.compose(self.filters.numpy(), self.scale)
        return plan, weights

    @staticmethod
    def matches(state: State) -> bool:
        return {"atoms", "projections"} <= state.keys()

    @classmethod
    def from_state(cls, state: State, scale: int | None = None) -> ANNet:
        """The network of these tensors. Raises ValueError where they do not fit."""
        count, pixels, n1 = state["projections"].shape if state["projections"].ndim == 3 else (0, 0, 0)
        s = math.isqrt(pixels // 9)
        if not 2 <= s <= 8 or pixels != 9 * s * s:
            raise ValueError("its tensors do not have the shapes of ANNet's")
        convs = [state[k] for k in sorted(k for k in state if k.startswith("integration.") and k.endswith("weight"))]
        sizes = tuple(int(w.shape[-1]) for w in convs)
        maps = int(convs[0].shape[0]) if convs else 64
        return filled(lambda: cls(s, sizes, maps, count, n1), state)
