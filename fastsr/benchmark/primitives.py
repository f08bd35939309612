# SPDX-License-Identifier: Apache-2.0
"""A plan as the layers that every runtime has: what foreign.py writes in their formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastsr.errors import DeviceError
from fastsr.ops.conv2d import BEFORE
from fastsr.plan import Param, Step

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """`out = kind(inputs; arrays, params)`.

    conv       w [Co, Ci, k, k], b [Co] or none; border
    deconv     w [Ci, Co, s, s], b [Co] or none; stride s, nothing overlaps
    activate   activation "relu" or "leaky_relu", slope
    add        of two inputs
    affine     scale [C], shift [C]
    nearest    enlarges by scale
    shuffle    pixel_shuffle by scale
    """

    kind: str
    inputs: tuple[str, ...]
    out: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    params: Mapping[str, Param] = field(default_factory=dict)


def layers(steps: Sequence[Step], weights: Weights) -> list[Layer]:
    """The plan's steps as layers; values of the plan keep their names. Raises DeviceError for a step without layers."""
    found: list[Layer] = []
    for step in steps:
        if step.op not in _MAKERS:
            raise DeviceError(f"this runtime has no {step.op}")
        arrays = {role: np.ascontiguousarray(weights[name], np.float32) for role, name in step.weights.items()}
        found += _MAKERS[step.op](step, arrays)
    return found


def _activated(step: Step, x: str, key: str, out: str) -> list[Layer]:
    kind = str(step.params.get(key, "none"))
    if kind == "none":
        return []
    return [Layer("activate", (x,), out, {}, {"activation": kind, "slope": float(step.params.get("slope", 0.0))})]


def _conv2d(step: Step, arrays: Weights) -> list[Layer]:
    if "slopes" in arrays or set(step.params) & {"gate", "join"} or step.params.get("activation", "none") not in BEFORE:
        raise DeviceError("this runtime has no conv2d of joined inputs, of a slope per channel, of a curve or a gate")
    border = {"border": step.params.get("border", "zero")}
    found = _activated(step, step.inputs[0], "input_activation", f"{step.out}/in")
    found.append(Layer("conv", (found[-1].out if found else step.inputs[0],), f"{step.out}/conv", arrays, border))
    summed = [Layer("add", (found[-1].out, r), f"{step.out}/sum") for r in step.inputs[1:]]
    if step.params.get("sum_inside"):
        found += summed
        summed = []
    found += _activated(step, found[-1].out, "activation", f"{step.out}/act")
    if summed:
        found.append(Layer("add", (found[-1].out, step.inputs[1]), f"{step.out}/sum"))
    return _named(found, step.out)


def _pconv_block(step: Step, arrays: Weights) -> list[Layer]:
    first = {new: arrays[old] for new, old in (("w", "w1"), ("b", "b1")) if old in arrays}
    second = {new: arrays[old] for new, old in (("w", "w3"), ("b", "b3")) if old in arrays}
    x, inner = step.inputs[0], f"{step.out}/inner"
    how = {"activation": step.params.get("activation", "relu"), "slope": step.params.get("slope", 0.0)}
    project = Step("conv2d", (x,), inner, {}, {**how, "input_activation": how["activation"]})
    return [*_conv2d(project, first), *_conv2d(Step("conv2d", (inner, x), step.out), second)]


def _cista(step: Step, arrays: Weights) -> list[Layer]:
    fixed = f"{step.out}/fixed"
    found = [Layer("conv", step.inputs, fixed, {"w": arrays["w"]}, {"border": "zero"})]
    found.append(Layer("activate", (fixed,), f"{step.out}/0", {}, {"activation": "relu", "slope": 0.0}))
    for k in range(int(step.params["steps"])):
        recursion = Step("conv2d", (found[-1].out, fixed), f"{step.out}/{k + 1}", {}, _INSIDE)
        found += _conv2d(recursion, {"w": arrays["s"]})
    return _named(found, step.out)


_INSIDE: dict[str, Param] = {"activation": "relu", "sum_inside": True}


def _upsample_residual(step: Step, arrays: Weights) -> list[Layer]:
    x, s = step.inputs[0], int(step.params["scale"])
    found = _activated(
        Step(step.op, step.inputs, step.out, {}, {"activation": "relu", **step.params}),
        x,
        "activation",
        f"{step.out}/in",
    )
    found.append(Layer("deconv", (found[-1].out if found else x,), f"{step.out}/up", arrays, {"scale": s}))
    near = Layer("nearest", (x,), f"{step.out}/near", {}, {"scale": s})
    return [*found, near, Layer("add", (found[-1].out, near.out), step.out)]


def _pixel_shuffle(step: Step, arrays: Weights) -> list[Layer]:
    return [Layer("shuffle", step.inputs, step.out, {}, {"scale": int(step.params["scale"])})]


def _scale_shift(step: Step, arrays: Weights) -> list[Layer]:
    shift = arrays["shift"]
    return [Layer("affine", step.inputs, step.out, {"scale": arrays.get("scale", np.ones_like(shift)), "shift": shift})]


_MAKERS = {
    "conv2d": _conv2d,
    "pconv_block": _pconv_block,
    "cista": _cista,
    "upsample_residual": _upsample_residual,
    "pixel_shuffle": _pixel_shuffle,
    "scale_shift": _scale_shift,
}


def _named(found: list[Layer], out: str) -> list[Layer]:
    """The last layer writes `out`."""
    last = found[-1]
    return [*found[:-1], Layer(last.kind, last.inputs, out, last.arrays, last.params)]
