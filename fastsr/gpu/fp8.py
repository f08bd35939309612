# SPDX-License-Identifier: Apache-2.0
"""precision "fp8": which steps multiply in e4m3 (8 bits, 4 of them the number's), and the sample their scales come from.

Weights are scaled by output channel, activations by one power of two a tensor. e4m3 numbers keep their 4 bits over 15
binades, so that the power need not be exact: it leaves three binades above the largest activation of a sample image, which
the plan is run on once, at load.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fastsr.plan import INPUT, Plan

OPS = ("cista", "pconv_block")
"""ops whose Triton kernels can; the others run in fp16"""
CAPABILITY = (8, 9)
SIDE = 24


def missing(device: str) -> str | None:
    """Why a device cannot; the interpreter can."""
    if device == "cpu" or torch.cuda.get_device_capability(device) >= CAPABILITY:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, 8.9 is needed: use fp16"


def sample(channels: int) -> np.ndarray:  # [C, SIDE, SIDE] f32 in [0, 1]
    """Stripes and dots of full contrast, noise, a slope; turned by a quarter from channel to channel."""
    half = SIDE // 2
    y, x = np.mgrid[:half, :half]
    stripes, dots = x // 3 % 2, (x // 2 + y // 2) % 2
    noise, slope = np.random.default_rng(0).random((half, half)), (x + y) / (2 * half - 2)
    plane = np.block([[stripes, noise], [slope, dots]]).astype(np.float32)
    return np.stack([np.rot90(plane, c) for c in range(channels)])


def samples(
    plan: Plan, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:  # out of the step -> its input [1, C, h, w] fp32
    """What the steps that run in e4m3 read, on the sample image: those of OPS at the largest size that any has.

    BTSRN's blocks of smaller size are 14 to 27 % of the blocks' work and most of what e4m3 would cost: they stay fp16.
    """
    values = {INPUT: torch.from_numpy(sample(plan.channels)).to(device)[None]}
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for step in plan.steps:
            inputs = [values[name] for name in step.inputs]
            if step.op in OPS:
                found[step.out] = inputs[0]
            op = importlib.import_module(f"fastsr.ops.{step.op}")
            roles = {role: weights[name].to(device) for role, name in step.weights.items()}
            values[step.out] = op.reference(*inputs, **roles, **step.params)
    largest = max((x.shape[-1] for x in found.values()), default=0)
    return {out: x for out, x in found.items() if x.shape[-1] == largest}
