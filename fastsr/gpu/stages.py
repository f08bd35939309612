# SPDX-License-Identifier: Apache-2.0
"""From a plan's steps to the launches of one device: who runs each, and which run of conv2d steps becomes one launch."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from fastsr.plan import Plan, Step

PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float16,
}
"""precision -> dtype of values. tf32: products are rounded to 10 bits of mantissa; fp8: e4m3 products where fp8.py says"""
IMAGE = 4
"""values of at most so many channels are images: fp32 in every precision (fastsr.kernels.triton.common has the same)"""
IMAGES_ONLY = ("resize_bicubic", "anchored_regression")
TYPED_AS_IMAGES = (("cuda", "anchored_regression"),)
"""kernels that are packed for the type of their images, whatever the working dtype is"""
SYNCHRONOUS = ("anchored_regression",)
"""references that read numbers back, which a CUDA graph cannot capture"""
BY_LIBRARY = ("conv2d", "upsample_residual", "pixel_shuffle")
"""ops that torch has as well, one kernel or two each: measuring chooses"""


class Runs(Protocol):
    """What every module of fastsr.kernels that runs steps has beside `supports` and `pack`."""

    def launch(self, packed: Any, *inputs: Tensor, **params: Any) -> Tensor: ...

    def candidates(self, packed: Any, device: torch.device) -> Sequence[Any]:
        """Configurations that `launch(config=)` takes, the default first; none where there is but one implementation."""
        ...


class Kernel(Runs, Protocol):
    """A module fastsr.kernels.<backend>.<op>; see docs/architecture.md."""

    def supports(
        self, params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> str | None: ...

    def pack(
        self, weights: Mapping[str, Tensor], params: Mapping[str, Any], dtype: torch.dtype, device: torch.device
    ) -> Any: ...

    def scratch(self, params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: int) -> int:
        """Bytes per pixel of the first input that a run holds beside inputs and output; size: of a working value."""
        ...


Launch = Callable[[Any, "Sequence[Tensor]", Any], "Tensor"]
"""(packed weights, inputs, a configuration or None) -> out"""


@dataclass(frozen=True)
class Target:
    """What stages are made for."""

    device: torch.device
    precision: str  # of PRECISIONS

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def tf32(self) -> bool:
        return self.precision == "tf32"


@dataclass(frozen=True)
class Candidate:
    """What tuning chooses among: an implementation of a stage, and a configuration of its kernel (None: the kernel has but one)."""

    implementation: str
    config: Any = None


@dataclass(frozen=True)
class Implementation:
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
    implementations: tuple[Implementation, ...]  # the first unless tuning chose another
    inputs: tuple[str, ...]
    plain: Callable[..., Tensor]
    """(inputs, dtype): the steps by torch in that dtype, what candidates are compared with"""
    capturable: bool = True
    note: str = ""
    """why an earlier backend does not run it, or it is not run in e4m3"""
    precision: str = "fp32"
    """of its products, of PRECISIONS"""
    frees: tuple[str, ...] = ()
    key: str = field(default="", compare=False)

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def out(self) -> str:
        return self.steps[-1].out

    @property
    def scratch(self) -> int:
        """Bytes per pixel of the first input that a run holds beside inputs and output."""
        return max(implementation.scratch for implementation in self.implementations)

    def run(self, inputs: Sequence[Tensor], chosen: Candidate | None) -> Tensor:
        """The stage by a candidate; by the first implementation's default where none was chosen."""
        implementation = (
            self.implementations[0]
            if chosen is None
            else next(
                implementation
                for implementation in self.implementations
                if implementation.name == chosen.implementation
            )
        )
        return implementation.launch(implementation.packed, inputs, None if chosen is None else chosen.config)

    def candidates(self) -> list[Candidate]:
        """Every configuration of every implementation, the default first. Raises RuntimeError where an implementation cannot be packed."""
        return [candidate for implementation in self.implementations for candidate in implementation.candidates]


def build(
    plan: Plan,
    weights: Mapping[str, Tensor],  # fp32, on the CPU
    backends: Sequence[str],
    target: Target,
    rivals: bool = False,  # every backend that supports a step is an implementation, not the first alone
    samples: Mapping[str, Tensor] | None = None,  # of precision fp8, by fp8.samples
) -> list[Stage]:
    """The stages of a plan, in order; every step is in exactly one."""
    found: list[Stage] = []
    others = replace(target, precision="fp16") if target.precision == "fp8" else target
    steps = list(plan.steps)
    readers = {step.out: sum(step.out in other.inputs for other in steps) for step in steps}
    while steps:
        stage = None
        if "triton" in backends and _module("triton", "shallow"):
            stage = _fused(steps, readers, weights, others)
        sample = samples.get(steps[0].out) if samples is not None else None
        if stage is None and sample is not None:
            stage = _in_e4m3(steps[0], weights, backends, target, sample, rivals)
        stage = stage or _single(steps[0], weights, backends, others, rivals)
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
    target: Target,
    sample: Tensor,
    rivals: bool,
) -> Stage:
    """A step by Triton's kernel in e4m3, where it has one that can; else in fp16, and the stage says so."""
    note = ""
    if "triton" in backends:
        found = _single(step, weights, ("triton",), target, False, sample)
        if found.implementations[0].name == "triton":
            return found
        note = found.note
    found = _single(step, weights, backends, replace(target, precision="fp16"), rivals)
    return replace(found, note=note or found.note)


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
    target: Target,
    rivals: bool,
    sample: Tensor | None = None,
) -> Stage:
    """One step by the first backend that has it, or by all that have; with a sample of its input, in e4m3."""
    plain = _plain((step,), weights, target)

    def by_torch(packed: Any, inputs: Sequence[Tensor], config: Any) -> Tensor:
        return plain(inputs, target.dtype, timed=True)

    found: list[Implementation] = []
    note = ""
    for backend, implementation in _kernels(step, weights, backends, target, sample):
        if not found and (reason := _unusable(implementation)):
            note = note or f"{backend}: {reason}"
        elif isinstance(implementation, Implementation):
            found.append(implementation)
            if not rivals:
                break
    alone = not found
    if alone or step.op in BY_LIBRARY:
        found.append(Implementation("torch", lambda: None, by_torch, lambda packed: ()))
    return Stage(
        (step,),
        tuple(found),
        step.inputs,
        plain,
        capturable=not alone or step.op not in SYNCHRONOUS,
        note=note,
        precision=target.precision,
        key=f"{'/'.join(implementation.name for implementation in found)} {_key((step,), weights)}",
    )


def _kernels(
    step: Step,
    weights: Mapping[str, Tensor],
    backends: Sequence[str],
    target: Target,
    sample: Tensor | None,
) -> Iterator[tuple[str, Implementation | str]]:
    """The backends that have a kernel for a step, in order, each with its implementation or with why the kernel declines."""
    mine, shapes = _weights(step, weights), _shapes(step, weights)
    params = {**step.params, **({"tf32": True} if target.tf32 else {}), **({} if sample is None else {"fp8": sample})}
    for backend in backends:
        kernel: Kernel | None = None if backend == "torch" else _module(backend, step.op)
        if kernel is None:
            continue
        working = torch.float32 if (backend, step.op) in TYPED_AS_IMAGES else target.dtype
        reason = kernel.supports(params, shapes, working)
        if reason:
            yield backend, reason
            continue

        def pack(kernel: Kernel = kernel, working: torch.dtype = working) -> Any:
            return kernel.pack(mine, params, working, target.device)

        scratch = kernel.scratch(params, shapes, target.dtype.itemsize)
        yield backend, _implementation(backend, kernel, pack, dict(step.params), target.device, scratch)


def _unusable(implementation: Implementation | str) -> str:
    """Why an implementation cannot be the first: its kernel declines, or cannot be compiled and loaded, which is found out here."""
    if isinstance(implementation, str):
        return implementation
    try:
        implementation.packed  # noqa: B018
    except RuntimeError as e:
        return str(e)
    return ""


def _implementation(
    name: str, kernel: Runs, pack: Callable[[], Any], params: dict[str, Any], device: torch.device, scratch: int = 0
) -> Implementation:
    """A module of fastsr.kernels as an implementation."""

    def launch(packed: Any, inputs: Sequence[Tensor], config: Any) -> Tensor:
        tuned = {} if config is None else {"config": config}
        return kernel.launch(packed, *inputs, **params, **tuned)

    def configs(packed: Any) -> Sequence[Any]:
        return tuple(kernel.candidates(packed, device))

    return Implementation(name, pack, launch, configs, scratch)


def _fused(
    steps: Sequence[Step],
    readers: Mapping[str, int],
    weights: Mapping[str, Tensor],
    target: Target,
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
        params = [{**step.params, **({"tf32": True} if target.tf32 else {})} for step in run]
        if shallow.supports(params, shapes, target.dtype):
            continue
        mine = [_weights(step, weights) for step in run]

        def pack(mine: Any = mine, params: Any = params) -> Any:
            return shallow.pack(mine, params, target.dtype, target.device)

        implementation = _implementation("triton shallow", shallow, pack, {}, target.device)
        return Stage(
            run,
            (implementation,),
            _inputs(run),
            _plain(run, weights, target),
            precision=target.precision,
            key=f"{implementation.name} {_key(run, weights)}",
        )
    return None


def _inputs(steps: Sequence[Step]) -> tuple[str, ...]:
    """Values that a run of steps reads: of several, the first's only one and the last's residual."""
    return steps[0].inputs if len(steps) == 1 else (*steps[0].inputs, *steps[-1].inputs[1:])


def _key(steps: Sequence[Step], weights: Mapping[str, Tensor]) -> str:
    """What a tuning result belongs to, but for the precision, the size of the image and the device."""
    parts = []
    for step in steps:
        sizes = ",".join(f"{r}{list(s)}".replace(" ", "") for r, s in sorted(_shapes(step, weights).items()))
        how = ",".join(f"{k}={v}" for k, v in sorted(step.params.items()) if k != "slope")
        parts.append(f"{step.op}({sizes};{how};{len(step.inputs)})")
    return "+".join(parts)


def _plain(steps: tuple[Step, ...], weights: Mapping[str, Tensor], target: Target) -> Callable[..., Tensor]:
    """The steps by their torch references in a dtype; images stay fp32 (fp64 in fp64) between and after them.

    timed: cuDNN measures its algorithms. Else it takes its first guess: measuring one in fp64, or while others use the GPU,
    takes seconds a shape, and it would keep what it then found.
    """
    held: dict[torch.dtype, list[dict[str, Tensor]]] = {}

    def cast(dtype: torch.dtype) -> list[dict[str, Tensor]]:
        """Per step its weights by role, as cuDNN likes them."""

        def one(w: Tensor, kind: torch.dtype) -> Tensor:
            w = w.to(target.device, kind)
            return w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w

        return [{r: one(weights[name], _kind(step, dtype)) for r, name in step.weights.items()} for step in steps]

    def run(inputs: Sequence[Tensor], dtype: torch.dtype, timed: bool = False) -> Tensor:
        if dtype not in held:
            held[dtype] = cast(dtype)
        values = dict(zip(_inputs(steps), inputs, strict=True))
        # By default torch rounds fp32 convolutions to tf32. These switches are the process's: held for these calls only.
        # cuDNN keeps an algorithm for each value of `deterministic`.
        flags = {"enabled": True, "benchmark": timed, "deterministic": not timed, "allow_tf32": target.tf32}
        with torch.backends.cudnn.flags(**flags):
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
    return torch.float32 if step.op in IMAGES_ONLY and dtype != torch.float64 else dtype


def bytes_of(stage: Stage, shapes: Mapping[str, tuple[int, int]], h: int, w: int, size: int) -> int:
    """Bytes of a stage's output for an h x w input image."""
    channels, up = shapes[stage.out]
    return channels * (4 if channels <= IMAGE else size) * h * w * up * up
