# SPDX-License-Identifier: Apache-2.0
"""torch on a GPU as a peer of our executors: the same plan in the same precision, weights cast once, channels_last.

torch           eager, cudnn.benchmark, replayed as a CUDA graph where the plan can be; anchored_regression by the fastest of
                the reference, natural.py and best.py on that GPU
torch.compile   of everything but Python loops, under autocast where the precision is a half one; anchored_regression,
                always in fp32 (its argmax needs it), as natural.py has it. Never in a mode that makes CUDA graphs: those
                overwrite the outputs of the last call, which the stages hold. Who times it captures the whole instead
torch.compile best   the same with best.py's anchored_regression
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsr.benchmark import best, natural
from fastsr.benchmark.natural import Stage, Values, Wrap
from fastsr.gpu import stages
from fastsr.gpu.gpu import GpuExecutor, PreparedGpu
from fastsr.gpu.stages import PRECISIONS
from fastsr.plan import INPUT, OUTPUT, Plan, Step

Run = Callable[[Tensor], Tensor]  # [1, C, h, w] -> [1, C, h * scale, w * scale], fp32 on the device

ANCHORED = "anchored_regression"


def eager(plan: Plan, weights: Mapping[str, np.ndarray], precision: str, device: str) -> PreparedGpu:
    """A GPU executor whose only backend is torch; the first image of a size chooses among anchored_regression's variants."""
    (prepared,) = GpuExecutor("torch", ("torch",)).prepare(plan, weights, precision=precision, device=device).members
    tensors = {name: torch.from_numpy(np.array(value, np.float32)).to(device) for name, value in weights.items()}
    for i, stage in enumerate(prepared.stages):
        (step,) = stage.steps
        if step.op == ANCHORED:
            more = {
                "torch natural": natural.anchored_stage(step, tensors, _plain),
                "torch best": best.anchored_stage(step, tensors, _plain, compiled=False),
            }
            ways = (*stage.ways, *(_way(name, step, run) for name, run in more.items()))
            names = "/".join(way.name for way in ways)
            prepared.stages[i] = replace(stage, ways=ways, key=f"{names} {stage.key.removeprefix('torch ')}")
    prepared.measures = prepared.device.type == "cuda"
    return prepared


def compiled(
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    precision: str,
    device: str,
    best_anchored: bool = False,
    wrap: Wrap | None = None,  # torch.compile unless given
    mode: str | None = None,  # of torch.compile
) -> Run:
    """The plan through torch.compile."""
    dtype = PRECISIONS[precision]

    exact = {name for step in plan.steps if step.op in stages.IMAGES_ONLY for name in step.weights.values()}

    def place(name: str, value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(value, np.float32)).to(device)
        if tensor.ndim != 4 or name in exact:
            return tensor
        return tensor.to(dtype, memory_format=torch.channels_last)  # here, so that autocast has nothing to do per call

    tensors = {name: place(name, value) for name, value in weights.items()}
    wrap = wrap or _compiling(mode)

    def anchored(step: Step, weights: Mapping[str, Tensor], wrap: Wrap) -> Stage:
        if best_anchored:
            inner = best.anchored_stage(step, weights, wrap, compiled=True)
        else:
            inner = natural.anchored_stage(step, weights, wrap)

        def stage(values: Values) -> None:
            with torch.autocast(torch.device(device).type, enabled=False):
                inner(values)

        return stage

    found = natural.stages(plan.steps, tensors, wrap, anchored)

    def run(x: Tensor) -> Tensor:
        values = {INPUT: x.contiguous(memory_format=torch.channels_last)}
        half = dtype != torch.float32
        with torch.no_grad(), torch.autocast(x.device.type, dtype=dtype if half else None, enabled=half):
            for stage in found:
                stage(values)
        return values[OUTPUT].float()

    return run


def _compiling(mode: str | None) -> Wrap:
    """torch.compile that compiles or raises. By default a function that was compiled too often runs eagerly, and says
    nothing: all plans' stages are one function to it, which is compiled anew for each."""
    import torch._dynamo

    torch._dynamo.reset()
    for name in ("fail_on_recompile_limit_hit", "fail_on_cache_limit_hit"):  # newer and older names
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, True)
    return lambda function: torch.compile(function, dynamic=False, mode=mode)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _way(name: str, step: Step, stage: Stage) -> stages.Way:
    def launch(packed: Any, inputs: Any, config: Any) -> Tensor:
        values: dict[str, Tensor] = dict(zip(step.inputs, inputs, strict=True))
        stage(values)
        return values[step.out]

    return stages.Way(name, lambda: None, launch, lambda packed: ())
