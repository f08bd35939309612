# SPDX-License-Identifier: Apache-2.0
"""What lowerings of convolutional families share: steps named after their layers, and the weights that a plan reads."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastsr.families.states import State
from fastsr.plan import Param, Plan, Step

Weights = dict[str, np.ndarray]


def conv(
    layer: str,  # its tensors are <layer>.weight and <layer>.bias
    out: str,
    *inputs: str,
    slopes: str = "",  # the tensor of a PReLU after it
    leaky: float = 0.0,  # the slope of a leaky relu after it
    **params: Param,
) -> Step:
    """A convolution and what is done to its sum."""
    roles = {"w": f"{layer}.weight", "b": f"{layer}.bias"}
    if slopes:
        roles["slopes"], params["activation"] = slopes, "leaky_relu"
    if leaky:
        params["activation"], params["slope"] = "leaky_relu", leaky
    return Step("conv2d", inputs, out, roles, params)


def shuffle(x: str, out: str, scale: int) -> Step:
    return Step("pixel_shuffle", (x,), out, {}, {"scale": scale})


def lowered(
    steps: list[Step],
    scale: int,
    state: State,
    made: Weights | None = None,  # folded tensors, which take the place of those of `state`
    domain: str = "rgb",
) -> tuple[Plan, Weights]:
    """The plan of these steps and its weights (float32)."""
    plan, made = Plan(domain, scale, tuple(steps)), made or {}
    return plan, {name: made[name] if name in made else numbers(state[name]) for name in plan.tensor_names}


def numbers(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().float().numpy()
    return found
