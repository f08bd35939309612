# SPDX-License-Identifier: Apache-2.0
"""What a case's outputs must be: the float64 reference's within an earned tolerance, and the same bytes in every setting."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

import numpy as np
import torch
from graphs.case import Case
from graphs.workers import Died, Worker
from torch import Tensor
from torch.nn.functional import max_pool2d

from fastsr.ops import anchored_regression
from fastsr.ops.conv2d import pad

FACTOR = 2.0
"""an error over plain torch's at the same precision"""
CHAIN = 144
"""Products that torch adds up in one sum, about; we add all up in one, whose rounding grows with the square root of their
number. Root mean squares of 72, 576 and 2304 products over torch's: 1.0, 2.0, 3.7."""
WINOGRAD = {"winograd4x4": 2.5, "winograd6x1": 3.0, "winograd4x1": 2.5}
"""Errors of transformed blocks over direct sums of as many products, of 8, 64 and 256 channels: 2.3, 1.3, 1.5 (4 x 4);
3.0, 3.0, 2.7 (6 x 1); 1.4, 1.6, 2.3 (4 x 1)."""
FLOOR = 2e-6
"""of the largest value: what plain torch's error, of one draw, may happen to be short by"""
ADDITION = 2 * 2.0**-24
"""of the largest value, times the root of the number of products: sums begin with the bias (torch adds it last), and where it is
large every addition rounds as it does"""
TIE = 1e-5
"""scores nearer than this, of their size, may be anchored either way"""
ROUGH = 0.03
"""root mean square of the error of a bf16 convolution over that of its output; bfloat16 has 0.002, F(4, 3) ten times it"""


class Finding(AssertionError):
    """A case that fails; the message says how."""


class Crash(Finding):
    pass


class Refused(Finding):
    pass


class Unstable(Finding):
    """The same case, other bytes."""


class Unwritten(Finding):
    """The output holds NaN."""


class Wrong(Finding):
    """The output is not the reference's."""


@dataclass
class Truth:
    """What is known about a case's output, each [C, h, w] but `size`."""

    exact: np.ndarray  # float64
    plain: np.ndarray  # torch's fp32
    rough: np.ndarray  # float64, every convolution's result off by ROUGH
    unsure: np.ndarray  # whether a tie of anchors reaches it
    size: float  # the largest of all values of the plan
    chain: int  # products in the longest sum


@dataclass
class Values:
    dtype: torch.dtype
    noise: float = 0.0
    made: dict[str, Tensor] = field(default_factory=dict)


def truth(case: Case) -> Truth:
    runs = [Values(torch.float64), Values(torch.float32), Values(torch.float64, ROUGH)]
    unsure: dict[str, Tensor] = {"lr": torch.zeros(1, 1, case.height, case.width)}
    weights = {name: torch.from_numpy(value) for name, value in case.weights().items()}
    random = torch.Generator().manual_seed(case.seed)
    with torch.no_grad():
        for run in runs:
            run.made["lr"] = torch.from_numpy(case.image())[None].to(run.dtype)
        for step in case.plan["steps"]:
            formula = importlib.import_module(f"fastsr.ops.{step['op']}").reference
            tensors = {role: weights[name] for role, name in step["weights"].items()}
            for run in runs:
                inputs = [run.made[name] for name in step["inputs"]]
                out = formula(*inputs, **{k: v.to(run.dtype) for k, v in tensors.items()}, **step["params"])
                if run.noise and step["op"] in ("conv2d", "pconv_block", "cista", "upsample_residual"):
                    size = float(out.square().mean().sqrt())
                    out = out + run.noise * size * torch.randn(out.shape, generator=random, dtype=run.dtype)
                run.made[step["out"]] = out
            found = spread(step, [unsure[name] for name in step["inputs"]], tensors)
            if step["op"] == "anchored_regression":
                found = torch.maximum(found, ties(runs[0].made[step["inputs"][0]], tensors, step["params"]["scale"]))
            unsure[step["out"]] = found
    exact, plain, rough = (run.made["out"][0].double().numpy() for run in runs)
    size = max(float(value.abs().max()) for value in runs[0].made.values())
    chain = max((tensor[0].numel() for tensor in weights.values()), default=1)
    return Truth(exact, plain, rough, (unsure["out"][0] > 0).expand(exact.shape).numpy(), size, chain)


def spread(step: dict[str, object], masks: list[Tensor], tensors: dict[str, Tensor]) -> Tensor:
    """Which pixels [1, 1, H, W] of a step's output read a marked pixel of its inputs."""
    op, params = step["op"], step["params"]
    assert isinstance(params, dict)
    windows = int(params.get("join", 1))
    mask = torch.stack(masks[:windows]).amax(0)
    factor = int(params.get("scale", 1))
    reach = {"resize_bicubic": 2, "pconv_block": 1}.get(str(op), 0)
    if op == "conv2d":
        reach = tensors["w"].shape[-1] // 2
    elif op == "cista":
        reach = tensors["w"].shape[-1] // 2 + params["steps"] * (tensors["s"].shape[-1] // 2)
    elif op == "anchored_regression":
        reach = 1 + tensors["filters"].shape[-1] // 2
    if reach:
        # Mirrored pixels of another border than the step's lie no further inside than the window of its own.
        mask = max_pool2d(pad(mask, reach, "replicate"), 2 * reach + 1, stride=1)
    mask = mask.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    return torch.maximum(mask, masks[windows]) if len(masks) > windows else mask


def ties(x: Tensor, tensors: dict[str, Tensor], scale: int) -> Tensor:
    """Where the float64 features leave the anchor, or whether a patch is flat, to rounding."""
    filters, atoms = tensors["filters"].double(), tensors["atoms"].double()
    f = torch.nn.functional.conv2d(pad(x, 1 + filters.shape[-1] // 2, "symmetric"), filters[:, None])
    error = TIE * float(x.abs().max()) * float(filters.abs().sum((1, 2)).max())  # of a feature, generously
    unsure = (f.abs().amax(1) - anchored_regression.FLAT).abs() < error
    scores = torch.einsum("nkhw,ak->nahw", f, atoms).abs()
    if atoms.shape[0] > 1:
        best = scores.topk(2, 1).values
        unsure |= best[:, 0] - best[:, 1] < 2 * error * float(atoms.abs().sum(1).max())
    cells = max_pool2d(unsure[:, None].float(), 3, stride=1)  # a cell reads the nine patches around it
    return cells.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def check(case: Case, worker: Worker) -> None:
    """Raises a Finding where a case fails on any ISA, in any setting."""
    worker.send(case)
    known = truth(case)
    try:
        rows, outputs = worker.receive()
    except Died as e:
        raise Crash(str(e)) from None
    for row, out in zip(rows, outputs, strict=True):
        who = row["isa"] + (" bf16" if row["bf16"] else "")
        refused = [problem for problem in row["problems"] if problem.startswith("refused")]
        if refused or out is None:
            raise Refused(f"{who}: {refused}")
        if not np.isfinite(out).all():
            raise Unwritten(f"{who}: {int((~np.isfinite(out)).sum())} of {out.size} numbers are none")
        if not row["bf16"]:
            near(who, row["kernels"], out, known)
        elif not any(step["op"] == "anchored_regression" for step in case.plan["steps"]):
            rough(who, out, known)  # else a tie is likely
        if row["problems"]:
            raise Unstable(f"{who}: " + "\n".join(row["problems"]))


def near(who: str, kernels: list[str], out: np.ndarray, known: Truth) -> None:
    """fp32: at most FACTOR times plain torch's error, more where Winograd's blocks are."""
    sure = ~known.unsure
    if not sure.any():
        return
    blocks = max((value for name, value in WINOGRAD.items() if any(name in kernel for kernel in kernels)), default=1.0)
    factor = blocks * max(1.0, (known.chain / CHAIN) ** 0.5)
    plain = float(np.abs(known.plain - known.exact)[sure].max())
    floor = max(FLOOR * blocks * max(1.0, known.size), ADDITION * known.size * known.chain**0.5)
    limit = max(FACTOR * factor * plain, floor)
    differ = np.where(sure, np.abs(out - known.exact), 0)
    if differ.max() > limit:
        at = [int(i) for i in np.unravel_index(differ.argmax(), out.shape)]
        many = int((differ > limit).sum())
        raise Wrong(f"{who}: off by {differ.max():.3g} at {at}, {many} of {out.size} by more than {limit:.3g}")


def rough(who: str, out: np.ndarray, known: Truth) -> None:
    """bf16: at most twice what errors of ROUGH in every convolution make of the output."""
    sure = ~known.unsure
    if not sure.any():
        return
    error = float(np.sqrt(np.square(out - known.exact)[sure].mean()))
    limit = 2 * float(np.sqrt(np.square(known.rough - known.exact)[sure].mean())) + ROUGH
    if error > limit:
        raise Wrong(f"{who}: off by {error:.3g} (root mean square), the limit is {limit:.3g}")
