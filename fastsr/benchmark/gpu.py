# SPDX-License-Identifier: Apache-2.0
"""torch on a GPU as a peer of our executors: the same plan in the same precision, weights cast once, channels_last.

torch           eager, cudnn.benchmark, replayed as a CUDA graph where the plan can be; each op by what is fastest on that
                GPU of its formula, natural.py, best.py and `_others` below
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
from torch.nn import functional as F

from fastsr.benchmark import best, natural
from fastsr.benchmark.natural import Stage, Values, Wrap
from fastsr.gpu import stages
from fastsr.gpu.gpu import GpuExecutor, PreparedGpu
from fastsr.gpu.stages import PRECISIONS
from fastsr.ops import conv2d
from fastsr.plan import INPUT, OUTPUT, Plan, Step

Run = Callable[[Tensor], Tensor]  # [1, C, h, w] -> [1, C, h * scale, w * scale], fp32 on the device

ANCHORED = "anchored_regression"


def eager(plan: Plan, weights: Mapping[str, np.ndarray], precision: str, device: str) -> PreparedGpu:
    """A GPU executor whose only backend is torch; the first image of a size chooses among each op's variants."""
    (prepared,) = GpuExecutor("torch", ("torch",)).prepare(plan, weights, precision=precision, device=device).members
    dtype = PRECISIONS[precision]
    tensors = {name: torch.from_numpy(np.array(value, np.float32)).to(device) for name, value in weights.items()}
    for i, stage in enumerate(prepared.stages):
        (step,) = stage.steps
        more = _others(step, {role: tensors[name] for role, name in step.weights.items()}, dtype)
        more = {name: _in_type(run, step, dtype, precision == "tf32") for name, run in more.items()}
        if step.op == ANCHORED:
            more["torch natural"] = _of_stage(step, natural.anchored_stage(step, tensors, _plain))
            more["torch best"] = _of_stage(step, best.anchored_stage(step, tensors, _plain, compiled=False))
        if more:
            implementations = (*stage.implementations, *(_implementation(name, run) for name, run in more.items()))
            names = "/".join(implementation.name for implementation in implementations)
            prepared.stages[i] = replace(
                stage, implementations=implementations, key=f"{names} {stage.key.removeprefix('torch ')}"
            )
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


def _implementation(name: str, run: Callable[..., Tensor]) -> stages.Implementation:
    return stages.Implementation(name, lambda: None, lambda packed, inputs, config: run(*inputs), lambda packed: ())


def _of_stage(step: Step, stage: Stage) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        values: dict[str, Tensor] = dict(zip(step.inputs, inputs, strict=True))
        stage(values)
        return values[step.out]

    return run


def _in_type(run: Callable[..., Tensor], step: Step, dtype: torch.dtype, tf32: bool) -> Callable[..., Tensor]:
    """A step's function of tensors of its own type, in and out as the executor has them (images in fp32, others last)."""
    kind = torch.float32 if step.op in stages.IMAGES_ONLY else dtype

    def typed(*inputs: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32):
            out = run(*(x.to(kind) for x in inputs))
        image = out.shape[1] <= stages.IMAGE
        return out.float() if image else out.contiguous(memory_format=torch.channels_last)

    return typed


def _others(step: Step, weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Callable[..., Tensor]]:
    """Other ways to write an op in torch than its formula, some of which are far faster on a GPU.

    torch natural   resize_bicubic by F.interpolate
    torch pad       a replicated border by F.pad, not by two gathers
    torch wide      up to 7 channels in or out padded to 8, of which cuDNN's fast kernels take multiples
    torch linear    1 x 1 as one product of matrices; an enlargement as one product, whose rows are then moved
    torch fused     cuDNN's own convolution with bias, summand and ReLU
    """
    arrays = {
        r: w.to(dtype, memory_format=torch.channels_last if w.ndim == 4 else torch.contiguous_format)
        for r, w in weights.items()
    }
    if step.op == "resize_bicubic":
        return {"torch natural": lambda x: natural.resize(x, int(step.params["scale"]))}
    if step.op == "conv2d":
        return _convolutions(step, arrays)
    if step.op == "upsample_residual":
        return {"torch linear": _enlargement(step, **arrays)}
    if step.op == "cista" and arrays["w"].is_cuda:
        return {"torch fused": lambda y: _recursions(y, steps=int(step.params["steps"]), **arrays)}
    return {}


def _convolutions(step: Step, arrays: Mapping[str, Tensor]) -> dict[str, Callable[..., Tensor]]:
    w, b = arrays["w"], arrays.get("b")
    how = dict(step.params)
    border, r = str(how.pop("border", "zero")), w.shape[-1] // 2
    co, ci = w.shape[:2]
    found: dict[str, Callable[..., Tensor]] = {}

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (r, r, r, r), "replicate") if border == "replicate" else conv2d.pad(x, r, border)

    activated = str(how.get("activation", "none"))
    simple = len(step.inputs) == 1 and "input_activation" not in how

    def by_cudnn(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Without a border that must be copied first, where it is zero."""
        inner = x if border == "zero" else padded(x)
        return conv2d.act(
            F.conv2d(inner, w, b, padding=r * (border == "zero")), activated, float(how.get("slope", 0.0))
        )

    if simple and border == "replicate" and r:
        found["torch pad"] = lambda x: by_cudnn(x, w, b)
    if simple and (ci < 8 or co < 8):
        wide_w = F.pad(w, (0, 0, 0, 0, 0, max(0, 8 - ci), 0, max(0, 8 - co))).contiguous(
            memory_format=torch.channels_last
        )
        wide_b = None if b is None else F.pad(b, (0, max(0, 8 - co)))
        found["torch wide"] = lambda x: by_cudnn(_wide(x), wide_w, wide_b)[:, :co]
    if simple and not r:
        flat = w[:, :, 0, 0].contiguous()
        found["torch linear"] = lambda x: conv2d.act(
            F.linear(x.permute(0, 2, 3, 1), flat, b).permute(0, 3, 1, 2), activated, float(how.get("slope", 0.0))
        )
    if simple and activated == "relu" and w.is_cuda:
        found["torch fused"] = lambda x: torch.cudnn_convolution_relu(
            x if border == "zero" else padded(x), w, b, (1, 1), (r * (border == "zero"),) * 2, (1, 1), 1
        )
    return found


def _wide(x: Tensor) -> Tensor:
    """8 channels, where there are fewer."""
    if x.shape[1] >= 8:
        return x
    return F.pad(x, (0, 0, 0, 0, 0, 8 - x.shape[1])).contiguous(memory_format=torch.channels_last)


def _enlargement(step: Step, w: Tensor, b: Tensor | None = None) -> Callable[..., Tensor]:
    """upsample_residual as one product per pixel, which is added to all of its s x s."""
    s, c = int(step.params["scale"]), w.shape[0]
    activation, slope = str(step.params.get("activation", "relu")), float(step.params.get("slope", 0.0))
    flat = w.permute(2, 3, 1, 0).reshape(s * s * c, c).contiguous()
    bias = None if b is None else b.repeat(s * s)

    def run(x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        rows = x.permute(0, 2, 3, 1)
        up = F.linear(conv2d.act(rows, activation, slope), flat, bias).view(n, height, width, s, s, c)
        up += rows[:, :, :, None, None]
        return up.permute(0, 1, 3, 2, 4, 5).reshape(n, s * height, s * width, c).permute(0, 3, 1, 2)

    return run


def _recursions(y: Tensor, w: Tensor, s: Tensor, steps: int) -> Tensor:
    r, one = w.shape[-1] // 2, (1, 1)
    fixed = F.conv2d(y, w, padding=r)
    z = fixed.relu()
    for _ in range(steps):
        z = torch.cudnn_convolution_add_relu(z, s, fixed, 1.0, None, one, (r, r), one, 1)
    return z
