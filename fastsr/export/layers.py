# SPDX-License-Identifier: Apache-2.0
"""A plan as the layers that every runtime has: what export/onnx.py and benchmark/foreign.py write in their formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastsr.errors import DeviceError
from fastsr.plan import Param, Step

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """`out = kind(inputs; arrays, params)`.

    conv       w [Co, Ci, k, k], b [Co] or none; border
    deconv     w [Ci, Co, s, s], b [Co] or none; stride s, nothing overlaps
    activate   one of conv2d's activations, slope, or slopes [C] of a leaky_relu
    add        of two inputs
    multiply   of two inputs
    less       the input less a value
    join       of inputs, channel after channel
    affine     scale [C], shift [C]
    nearest    enlarges by scale
    bicubic    enlarges by scale as resize_bicubic does
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


def _activated(step: Step, x: str, key: str, out: str, slopes: Weights | None = None) -> list[Layer]:
    kind = str(step.params.get(key, "none"))
    if kind == "none":
        return []
    how: dict[str, Param] = {"activation": kind, "slope": float(step.params.get("slope", 0.0))}
    return [Layer("activate", (x,), out, slopes or {}, how)]


def _conv2d(step: Step, arrays: Weights) -> list[Layer]:
    border = {"border": step.params.get("border", "zero")}
    join = int(step.params.get("join", 1))
    parts, residual = step.inputs[:join], step.inputs[join:]
    found = [Layer("join", parts, f"{step.out}/join")] if join > 1 else []
    x = found[-1].out if found else parts[0]
    found += _activated(step, x, "input_activation", f"{step.out}/in")
    tensors = {role: arrays[role] for role in ("w", "b") if role in arrays}
    found.append(Layer("conv", (found[-1].out if found else x,), f"{step.out}/conv", tensors, border))
    summed = [Layer("add", (found[-1].out, r), f"{step.out}/sum") for r in residual]
    if step.params.get("gate"):
        return _named([*found, *summed, *_gate(step.out)], step.out)
    if step.params.get("sum_inside"):
        found += summed
        summed = []
    slopes = {"slopes": arrays["slopes"]} if "slopes" in arrays else None
    found += _activated(step, found[-1].out, "activation", f"{step.out}/act", slopes)
    if summed:
        found.append(Layer("add", (found[-1].out, residual[0]), f"{step.out}/sum"))
    return _named(found, step.out)


def _gate(out: str) -> list[Layer]:
    curve = Layer("activate", (f"{out}/conv",), f"{out}/curve", {}, {"activation": "sigmoid", "slope": 0.0})
    half = Layer("less", (curve.out,), f"{out}/half", {}, {"value": 0.5})
    return [curve, half, Layer("multiply", (f"{out}/sum", half.out), f"{out}/gate")]


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


def _bicubic(step: Step, arrays: Weights) -> list[Layer]:
    return [Layer("bicubic", step.inputs, step.out, {}, {"scale": int(step.params["scale"])})]


_MAKERS = {
    "resize_bicubic": _bicubic,
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
