# SPDX-License-Identifier: Apache-2.0
"""From a plan's steps to the launches of one device: who runs each, and which run of conv2d steps becomes one launch."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
BY_LIBRARY = ("conv2d", "upsample_residual", "pixel_shuffle")
"""ops that torch has as well, one kernel or two each: measuring chooses"""

Launch = Callable[[Any, "Sequence[Tensor]", Any], "Tensor"]
"""(packed weights, inputs, a configuration or None) -> out"""


@dataclass(frozen=True)
class Candidate:
    """What tuning chooses among: a way of a stage, and a configuration of its kernel (None: the kernel has but one)."""

    way: str
    config: Any = None


@dataclass(frozen=True)
class Way:
    """A stage as one backend runs it. Its weights are packed when they are first needed."""

    name: str  # "triton", "triton shallow", "cuda", "torch"
    pack: Callable[[], Any]
    launch: Launch
    configs: Callable[[Any], Sequence[Any]]
    """packed weights -> configurations, the default first; none where the kernel has but one"""
    scratch: int = 0  # bytes per pixel of the first input

    @cached_property
    def packed(self) -> Any:
        return self.pack()

    @property
    def candidates(self) -> list[Candidate]:
        return [Candidate(self.name, config) for config in self.configs(self.packed)] or [Candidate(self.name)]


@dataclass(frozen=True)
class Stage:
    """One launch: a step, or several steps as one."""

    steps: tuple[Step, ...]
    ways: tuple[Way, ...]  # the first unless tuning chose another
    inputs: tuple[str, ...]
    plain: Callable[..., Tensor]
    """(inputs, dtype): the steps by torch in that dtype, what candidates are compared with"""
    capturable: bool = True
    note: str = ""
    """why an earlier backend does not run it, or it is not run in e4m3"""
    precision: str = ""
    """where it is not the plan's"""
    frees: tuple[str, ...] = ()
    key: str = field(default="", compare=False)

    @property
    def out(self) -> str:
        return self.steps[-1].out

    @property
    def scratch(self) -> int:
        """Bytes per pixel of the first input that a run holds beside inputs and output."""
        return max(way.scratch for way in self.ways)

    def run(self, inputs: Sequence[Tensor], chosen: Candidate | None) -> Tensor:
        """The stage by a candidate; by the first way's default where none was chosen."""
        way = self.ways[0] if chosen is None else next(way for way in self.ways if way.name == chosen.way)
        return way.launch(way.packed, inputs, None if chosen is None else chosen.config)

    def candidates(self) -> list[Candidate]:
        """Every configuration of every way, the default first. Raises RuntimeError where a way cannot be packed."""
        return [candidate for way in self.ways for candidate in way.candidates]


def build(
    plan: Plan,
    weights: Mapping[str, Tensor],  # fp32, on the CPU
    backends: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    tf32: bool,
    rivals: bool = False,  # every backend that supports a step is a way, not the first alone
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
        if samples is not None:
            stage = replace(stage, precision="fp16") if stage else None
            stage = stage or _in_e4m3(steps[0], weights, backends, dtype, device, samples, rivals)
        stage = stage or _single(steps[0], weights, backends, dtype, device, tf32, rivals)
        found.append(stage)
        del steps[: len(stage.steps)]
    last = {name: i for i, stage in enumerate(found) for name in stage.inputs}
    return [
        replace(stage, frees=tuple(name for name in dict.fromkeys(stage.inputs) if last[name] == i))
        for i, stage in enumerate(found)
    ]


def _in_e4m3(
    step: Step,
    weights: Mapping[str, Tensor],
    backends: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    samples: Mapping[str, Tensor],
    rivals: bool,
) -> Stage:
    """A step by Triton's kernel in e4m3, where it has one that can; else in fp16, and the stage says so."""
    sample, note = samples.get(step.out), ""
    if sample is not None and "triton" in backends:
        found = _single(step, weights, ("triton",), dtype, device, False, False, sample)
        if found.ways[0].name == "triton":
            return replace(found, key=f"{found.key} fp8")
        note = found.note
    found = _single(step, weights, backends, dtype, device, False, rivals)
    return replace(found, precision="fp16", note=note or found.note)


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
    rivals: bool,
    sample: Tensor | None = None,
) -> Stage:
    """One step by the first backend that has it, or by all that have; with a sample of its input, in e4m3."""
    plain = _plain((step,), weights, device, tf32)

    def by_torch(packed: Any, inputs: Sequence[Tensor], config: Any) -> Tensor:
        return plain(inputs, dtype, timed=True)

    found: list[Way] = []
    note = ""
    for backend, way in _kernels(step, weights, backends, dtype, device, tf32, sample):
        if not found and (reason := _unusable(way)):
            note = note or f"{backend}: {reason}"
        elif isinstance(way, Way):
            found.append(way)
            if not rivals:
                break
    alone = not found
    if alone or step.op in BY_LIBRARY:
        found.append(Way("torch", lambda: None, by_torch, lambda packed: ()))
    return Stage(
        (step,),
        tuple(found),
        step.inputs,
        plain,
        capturable=not alone or step.op not in SYNCHRONOUS,
        note=note,
        key=f"{'/'.join(way.name for way in found)} {_key((step,), weights, dtype, tf32)}",
    )


def _kernels(
    step: Step,
    weights: Mapping[str, Tensor],
    backends: Sequence[str],
    dtype: torch.dtype,
    device: torch.device,
    tf32: bool,
    sample: Tensor | None,
) -> Iterator[tuple[str, Way | str]]:
    """The backends that have a kernel for a step, in order, each with its way or with why the kernel declines."""
    import torch

    mine, shapes = _weights(step, weights), _shapes(step, weights)
    params = {**step.params, **({"tf32": True} if tf32 else {}), **({} if sample is None else {"fp8": sample})}
    for backend in backends:
        kernel = None if backend == "torch" else _module(backend, step.op)
        if kernel is None:
            continue
        working = torch.float32 if (backend, step.op) in TYPED_AS_IMAGES else dtype
        reason = kernel.supports(params, shapes, working)
        yield (
            backend,
            reason
            or _way(
                backend,
                kernel,
                lambda kernel=kernel, working=working: kernel.pack(mine, params, working, device),  # type: ignore[misc]
                dict(step.params),
                device,
                kernel.scratch(params, shapes, dtype.itemsize) if hasattr(kernel, "scratch") else 0,
            ),
        )


def _unusable(way: Way | str) -> str:
    """Why a way cannot be the first: its kernel declines, or cannot be compiled and loaded, which is found out here."""
    if isinstance(way, str):
        return way
    try:
        way.packed  # noqa: B018
    except RuntimeError as e:
        return str(e)
    return ""


def _way(
    name: str, kernel: Any, pack: Callable[[], Any], params: dict[str, Any], device: torch.device, scratch: int = 0
) -> Way:
    """A module of fastsr.kernels as a way."""

    def launch(packed: Any, inputs: Sequence[Tensor], config: Any) -> Tensor:
        tuned = {} if config is None else {"config": config}
        return kernel.launch(packed, *inputs, **params, **tuned)  # type: ignore[no-any-return]

    def configs(packed: Any) -> Sequence[Any]:
        return tuple(kernel.candidates(packed, device)) if hasattr(kernel, "candidates") else ()

    return Way(name, pack, launch, configs, scratch)


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
        mine = [_weights(step, weights) for step in run]
        way = _way("triton shallow", shallow, lambda: shallow.pack(mine, params, dtype, device), {}, device)  # noqa: B023
        key = f"{way.name} {_key(run, weights, dtype, tf32)}"
        return Stage(run, (way,), _inputs(run), _plain(run, weights, device, tf32), key=key)
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
) -> Callable[..., Tensor]:
    """The steps by their torch references in a dtype; images stay fp32 (fp64 in fp64) between and after them.

    timed: cuDNN measures its algorithms. Else it takes its first guess: measuring one in fp64, or while others use the GPU,
    takes seconds a shape, and it would keep what it then found.
    """
    held: dict[torch.dtype, list[dict[str, Tensor]]] = {}

    def cast(dtype: torch.dtype) -> list[dict[str, Tensor]]:
        """Per step its weights by role, as cuDNN likes them."""
        import torch

        def one(w: Tensor, kind: torch.dtype) -> Tensor:
            w = w.to(device, kind)
            return w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w

        return [{r: one(weights[name], _kind(step, dtype)) for r, name in step.weights.items()} for step in steps]

    def run(inputs: Sequence[Tensor], dtype: torch.dtype, timed: bool = False) -> Tensor:
        import torch

        if dtype not in held:
            held[dtype] = cast(dtype)
        values = dict(zip(_inputs(steps), inputs, strict=True))
        # By default torch rounds fp32 convolutions to tf32. These switches are the process's: held for these calls only.
        # cuDNN keeps an algorithm for each value of `deterministic`.
        with torch.backends.cudnn.flags(enabled=True, benchmark=timed, deterministic=not timed, allow_tf32=tf32):
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
