# SPDX-License-Identifier: Apache-2.0
"""Each op as a plan's author would write it in torch: unfold, matmul, argmax, gathered bmm, fold.

Chunked only so that the gathered matrices (10 kB a patch) do not fill the memory. What a stage computes without a
Python loop around it goes through `wrap`, which is torch.compile or nothing.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsr.ops.conv2d import pad
from fastsr.plan import Step

Values = dict[str, Tensor]
Stage = Callable[[Values], None]
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

CHUNK = 16384
"""patches a chunk: 160 MB of gathered x3 projections; larger chunks are slower, not faster"""


def resize(
    x: Tensor,  # [1, C, h, w]
    scale: int,
) -> Tensor:  # [1, C, h * scale, w * scale]
    """torch's antialiasing bicubic has MATLAB's kernel (a = -0.5); the symmetric border is padded on and cut off."""
    h, w = x.shape[-2] * scale, x.shape[-1] * scale
    r = 3
    wide = F.interpolate(
        pad(x, r, "symmetric"), size=(h + 2 * r * scale, w + 2 * r * scale), mode="bicubic", antialias=True
    )
    return wide[..., r * scale : r * scale + h, r * scale : r * scale + w]


def formula(step: Step, weights: Mapping[str, Tensor]) -> Callable[..., Tensor]:
    """A step's function of its inputs. All that torch.compile cannot look through is done here."""
    if step.op == "resize_bicubic":
        return functools.partial(resize, scale=int(step.params["scale"]))
    op = importlib.import_module(f"fastsr.ops.{step.op}")
    arrays = {role: weights[name] for role, name in step.weights.items()}
    return functools.partial(op.reference, **arrays, **step.params)


def plain_stage(steps: Sequence[Step], weights: Mapping[str, Tensor], wrap: Wrap) -> Stage:
    """Consecutive steps as one function, so that torch.compile may fuse across them."""
    outs = [step.out for step in steps]
    ins = [v for v in dict.fromkeys(v for step in steps for v in step.inputs) if v not in outs]
    calls = [(formula(step, weights), step.inputs, step.out) for step in steps]

    def forward(*given: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(ins, given, strict=True))
        for function, inputs, out in calls:
            values[out] = function(*[values[name] for name in inputs])
        return tuple(values[name] for name in outs)

    whole = wrap(forward)

    def stage(values: Values) -> None:
        values.update(zip(outs, whole(*(values[name] for name in ins)), strict=True))

    return stage


def anchored_stage(step: Step, weights: Mapping[str, Tensor], wrap: Wrap) -> Stage:
    """Eq. 5 and the combination: unfold, matmul, argmax, gathered bmm, fold."""
    filters, atoms, projections = (weights[step.weights[k]] for k in ("filters", "atoms", "projections"))
    s = int(step.params["scale"])
    n1, f = filters.shape[0], filters.shape[-1]
    bank = filters.reshape(n1, f * f)

    def features(x: Tensor) -> Tensor:  # [P, n1]
        patches = F.unfold(pad(x, 1 + f // 2, "symmetric"), f)
        return (bank @ patches[0]).T

    def details(part: Tensor) -> Tensor:  # [p, m * m]
        anchor = (part @ atoms.T).abs().argmax(1)
        return torch.bmm(projections[anchor], part[:, :, None])[:, :, 0]

    def combine(base: Tensor, detail: Tensor) -> Tensor:
        size = (base.shape[-2] + 4 * s, base.shape[-1] + 4 * s)
        total = F.fold(detail.T[None], size, kernel_size=3 * s, stride=s)
        return base + total[..., 2 * s : -2 * s, 2 * s : -2 * s] / 9

    features, details, combine = wrap(features), wrap(details), wrap(combine)

    def stage(values: Values) -> None:
        x, base = (values[name] for name in step.inputs)
        detail = torch.cat([details(part) for part in torch.split(features(x), CHUNK)])
        values[step.out] = combine(base, detail)

    return stage


def stages(
    steps: Sequence[Step],
    weights: Mapping[str, Tensor],
    wrap: Wrap,
    anchored: Callable[[Step, Mapping[str, Tensor], Wrap], Stage] = anchored_stage,
) -> list[Stage]:
    """The plan as stages, each reading and writing named values."""
    found: list[Stage] = []
    plain: list[Step] = []
    for step in steps:
        if step.op != "anchored_regression":
            plain.append(step)
            continue
        if plain:
            found.append(plain_stage(tuple(plain), weights, wrap))
            plain = []
        found.append(anchored(step, weights, wrap))
    if plain:
        found.append(plain_stage(tuple(plain), weights, wrap))
    return found
