# SPDX-License-Identifier: Apache-2.0
"""From a plan's steps to the launches of one device: who runs each, and which run of conv2d steps becomes one launch."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastsr.plan import Plan, Step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGE = 4
"""values of at most so many channels are images: fp32 in every precision (fastsr.kernels.triton.common has the same)"""
IMAGES_ONLY = ("resize_bicubic", "anchored_regression")
TYPED_AS_IMAGES = (("cuda", "anchored_regression"),)
"""kernels that are packed for the type of their images, whatever the working dtype is"""
SYNCHRONOUS = ("anchored_regression",)
"""references that read numbers back, which a CUDA graph cannot capture"""


@dataclass(frozen=True)
class Stage:
    """One launch: a step, or several steps as one."""

    steps: tuple[Step, ...]
    who: str  # "triton", "triton shallow", "torch"
    inputs: tuple[str, ...]
    run: Callable[[Sequence[Tensor], Any], Tensor]
    """(inputs, a tuning candidate or None) -> out"""
    plain: Callable[[Sequence[Tensor], torch.dtype], Tensor]
    """(inputs, dtype): the steps by torch in that dtype, what candidates are compared with"""
    candidates: tuple[Any, ...] = ()
    capturable: bool = True
    scratch: int = 0  # bytes per pixel of the first input
    note: str = ""
    """why an earlier backend does not run it, or it is not run in e4m3"""
    precision: str = ""
    """where it is not the plan's"""
    frees: tuple[str, ...] = ()
    key: str = field(default="", compare=False)

    @property
    def out(self) -> str:
        return self.steps[-1].out


def build(
    plan: Plan,
    weights: Mapping[str, Tensor],  # fp32, on the CPU
    backends: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    tf32: bool,
    samples: Mapping[str, Tensor] | None = None,  # of precision fp8, by fp8.samples
) -> list[Stage]:
    """The stages of a plan, in order; every step is in exactly one."""
    found: list[Stage] = []
    steps = list(plan.steps)
    readers = {step.out: sum(step.out in other.inputs for other in steps) for step in steps}
    while steps:
        stage = None
        if "triton" in backends and _module("triton", "shallow"):
            stage = _fused(steps, readers, weights, dtype, device, tf32)
        stage = stage or _single(steps[0], weights, backends, dtype, device, tf32)
        if samples is not None:
            stage = _in_e4m3(stage, weights, backends, dtype, device, samples)
        found.append(stage)
        del steps[: len(stage.steps)]
    last = {name: i for i, stage in enumerate(found) for name in stage.inputs}
    return [
        replace(stage, frees=tuple(name for name in dict.fromkeys(stage.inputs) if last[name] == i))
        for i, stage in enumerate(found)
    ]


def _in_e4m3(
    stage: Stage,
    weights: Mapping[str, Tensor],
    backends: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    samples: Mapping[str, Tensor],
) -> Stage:
    """The stage by Triton's kernel in e4m3, where it has one that can; else itself, which says so."""
    sample = samples.get(stage.out)
    if sample is None or "triton" not in backends:
        return replace(stage, precision="fp16")
    found = _single(stage.steps[0], weights, ("triton",), dtype, device, False, sample)
    if found.who != "triton":
        return replace(stage, precision="fp16", note=found.note)
    return replace(found, key=f"{found.key} fp8")


def _module(backend: str, name: str) -> Any:
    """The kernels' module of that name, None where the backend has none."""
    try:
        return importlib.import_module(f"fastsr.kernels.{backend}.{name}")
    except ModuleNotFoundError as e:
        if e.name and e.name.startswith("fastsr.kernels"):
            return None
        raise


def _weights(step: Step, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {role: weights[name] for role, name in step.weights.items()}


def _shapes(step: Step, weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {role: tuple(weights[name].shape) for role, name in step.weights.items()}


def _single(
    step: Step,
    weights: Mapping[str, Tensor],
    backends: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    tf32: bool,
    sample: Tensor | None = None,
) -> Stage:
    """One step by the first backend that has it; with a sample of its input, in e4m3."""
    import torch

    mine, shapes = _weights(step, weights), _shapes(step, weights)
    params = {**step.params, **({"tf32": True} if tf32 else {}), **({} if sample is None else {"fp8": sample})}
    plain = _plain((step,), weights, device, tf32)
    key = _key((step,), weights, dtype, tf32)
    note = ""
    for backend in backends:
        kernel = None if backend == "torch" else _module(backend, step.op)
        if kernel is None:
            continue
        working = torch.float32 if (backend, step.op) in TYPED_AS_IMAGES else dtype
        reason = kernel.supports(params, shapes, working)
        if reason:
            note = note or f"{backend}: {reason}"
            continue
        try:
            packed = kernel.pack(mine, params, working, device)
        except RuntimeError as e:  # a kernel that cannot be compiled or loaded: the next backend's may
            note = note or f"{backend}: {e}"
            continue
        candidates = tuple(kernel.candidates(packed, device)) if hasattr(kernel, "candidates") else ()
        # conv2d's rival is cuDNN, through torch: tuning chooses.
        candidates += ("torch",) if step.op == "conv2d" else ()
        return Stage(
            (step,),
            backend,
            step.inputs,
            _launcher(kernel, packed, dict(step.params), plain, dtype),
            plain,
            candidates,
            scratch=kernel.scratch(params, shapes, dtype.itemsize) if hasattr(kernel, "scratch") else 0,
            note=note,
            key=f"{backend} {key}",
        )

    def by_torch(inputs: Sequence[Tensor], config: Any) -> Tensor:
        return plain(inputs, dtype)

    capturable = step.op not in SYNCHRONOUS
    return Stage((step,), "torch", step.inputs, by_torch, plain, capturable=capturable, note=note, key=f"torch {key}")


def _launcher(
    kernel: Any, packed: Any, params: dict[str, Any], plain: Callable[..., Tensor], dtype: torch.dtype
) -> Callable[[Sequence[Tensor], Any], Tensor]:
    def launch(inputs: Sequence[Tensor], config: Any) -> Tensor:
        if config == "torch":
            return plain(inputs, dtype)
        tuned = {} if config is None else {"config": config}
        return kernel.launch(packed, *inputs, **params, **tuned)  # type: ignore[no-any-return]

    return launch


def _fused(
    steps: Sequence[Step],
    readers: Mapping[str, int],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    tf32: bool,
) -> Stage | None:
    """The first three or two steps as one `shallow` launch, where they are such a run of conv2d."""
    shallow = _module("triton", "shallow")
    for count in (3, 2):
        run = tuple(steps[:count])
        if len(run) < count or any(step.op != "conv2d" for step in run) or len(run[0].inputs) != 1:
            continue
        chained = all(after.inputs[0] == before.out for before, after in itertools.pairwise(run))
        alone = all(readers[step.out] == 1 for step in run[:-1]) and all(len(step.inputs) == 1 for step in run[:-1])
        if not (chained and alone):
            continue
        shapes = [_shapes(step, weights) for step in run]
        params = [{**step.params, **({"tf32": True} if tf32 else {})} for step in run]
        if shallow.supports(params, shapes, dtype):
            continue
        packed = shallow.pack([_weights(step, weights) for step in run], params, dtype, device)
        plain = _plain(run, weights, device, tf32)
        inputs = _inputs(run)
        key = f"triton shallow {_key(run, weights, dtype, tf32)}"
        candidates = tuple(shallow.candidates(packed, device))
        return Stage(
            run, "triton shallow", inputs, _launcher(shallow, packed, {}, plain, dtype), plain, candidates, key=key
        )
    return None


def _inputs(steps: Sequence[Step]) -> tuple[str, ...]:
    """Values that a run of steps reads: of several, the first's only one and the last's residual."""
    return steps[0].inputs if len(steps) == 1 else (*steps[0].inputs, *steps[-1].inputs[1:])


def _key(steps: Sequence[Step], weights: Mapping[str, Tensor], dtype: torch.dtype, tf32: bool) -> str:
    """What a tuning result belongs to, but for the size of the image and the device."""
    parts = []
    for step in steps:
        sizes = ",".join(f"{r}{list(s)}".replace(" ", "") for r, s in sorted(_shapes(step, weights).items()))
        how = ",".join(f"{k}={v}" for k, v in sorted(step.params.items()) if k != "slope")
        parts.append(f"{step.op}({sizes};{how};{len(step.inputs)})")
    return f"{'+'.join(parts)} {str(dtype).partition('.')[2]}{' tf32' if tf32 else ''}"


def _plain(
    steps: tuple[Step, ...], weights: Mapping[str, Tensor], device: torch.device, tf32: bool
) -> Callable[[Sequence[Tensor], torch.dtype], Tensor]:
    """The steps by their torch references in a dtype; images stay fp32 (fp64 in fp64) between and after them."""
    held: dict[torch.dtype, list[dict[str, Tensor]]] = {}

    def cast(dtype: torch.dtype) -> list[dict[str, Tensor]]:
        """Per step its weights by role, as cuDNN likes them."""
        import torch

        def one(w: Tensor, kind: torch.dtype) -> Tensor:
            w = w.to(device, kind)
            return w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w

        return [{r: one(weights[name], _kind(step, dtype)) for r, name in step.weights.items()} for step in steps]

    def run(inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        import torch

        if dtype not in held:
            held[dtype] = cast(dtype)
        values = dict(zip(_inputs(steps), inputs, strict=True))
        # By default torch rounds fp32 convolutions to tf32. These switches are the process's: held for these calls only.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32):
            for step, roles in zip(steps, held[dtype], strict=True):
                op = importlib.import_module(f"fastsr.ops.{step.op}")
                given = (values[name].to(_kind(step, dtype)) for name in step.inputs)
                out = op.reference(*given, **roles, **step.params)
                if out.shape[1] <= IMAGE:
                    out = out.to(torch.float64 if dtype == torch.float64 else torch.float32)
                else:
                    out = out.contiguous(memory_format=torch.channels_last)
                values[step.out] = out
        return values[steps[-1].out]

    return run


def _kind(step: Step, dtype: torch.dtype) -> torch.dtype:
    """The dtype a step computes in: what makes images of images stays fp32, or fp64."""
    import torch

    return torch.float32 if step.op in IMAGES_ONLY and dtype != torch.float64 else dtype


def bytes_of(stage: Stage, shapes: Mapping[str, tuple[int, int]], h: int, w: int, size: int) -> int:
    """Bytes of a stage's output for an h x w input image."""
    channels, up = shapes[stage.out]
    return channels * (4 if channels <= IMAGE else size) * h * w * up * up
