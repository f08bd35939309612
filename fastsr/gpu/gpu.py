# SPDX-License-Identifier: Apache-2.0
"""What the GPU executors share: a plan on torch tensors of one device, each step by the first backend that has it.

A backend is a folder of `fastsr.kernels`; "torch", the reference formula on the same device, is last and has all. The
executor "gpu", which "auto" stands for on a GPU, has them all and takes per step what measured faster. Values
of at most 4 channels are images and stay fp32, others are channels_last in the working dtype. On a GPU a shape that
comes again is captured as a CUDA graph. Also runs on the CPU, where Triton's interpreter (TRITON_INTERPRET=1) does the
launches: that is how it is tested without a GPU.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsr import _core
from fastsr.engine import Job
from fastsr.errors import DeviceError, LimitError, ModelError
from fastsr.executors import devices
from fastsr.gpu import fp8, multi_gpu, stages, tuning
from fastsr.gpu.stages import PRECISIONS
from fastsr.gpu.stream import Feed
from fastsr.ops import OPS
from fastsr.plan import INPUT, OUTPUT, Plan

GRAPHS = 8
"""CUDA graphs kept, of the shapes used last; they share one pool of memory"""
SMALLEST = 16
"""side of a tile, in LR pixels, below which memory that is short is an error"""


class PreparedGpu:
    """A plan packed for one device. Calls are independent; on one GPU they run one after another."""

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, np.ndarray],
        *,
        backends: Sequence[str],
        rivals: bool,
        device: str,
        precision: str = "fp32",
        tile: int = 0,
        memory_limit: int | None = None,
    ) -> None:
        self.plan, self.precision, self.tile, self.memory_limit = plan, precision, tile, memory_limit
        self.device = torch.device(device)
        self.dtype = PRECISIONS[precision]
        arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
        # The native rules check the plan, and know its radius and shapes.
        self.session = _core.Session(plan.to_dict(), arrays, threads=1)
        self.radius = self.session.radius
        self.isa = devices.name(self.device)
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        with on(self.device):
            samples = fp8.samples(plan, tensors, self.device) if precision == "fp8" else None
            self.stages = stages.build(plan, tensors, backends, stages.Target(self.device, precision), rivals, samples)
        self.choices = tuning.Choices(self.device)
        # Whether backends are timed against each other on the first image of a class of sizes.
        self.measures = rivals and self.device.type == "cuda"
        self._seen: set[tuple[int, ...]] = set()
        self._uncaptured: set[tuple[int, ...]] = set()
        self._graphs: OrderedDict[tuple[int, ...], _Graph] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: Any = None
        self._turn: Any = None  # an event: the last replay is done with the pool

    @property
    def members(self) -> tuple[PreparedGpu, ...]:
        """What runs on each GPU: here one."""
        return (self,)

    def engine(self, job: Job) -> Feed:
        return Feed(self.members, self.isa, job)

    def run(
        self,
        x: np.ndarray,  # [C, h, w] f32 in [0, 1]
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32
        out: np.ndarray = self.run_tensor(torch.from_numpy(np.array(x, np.float32))[None])[0].cpu().numpy()
        return np.ascontiguousarray(out)

    def run_tensor(
        self,
        x: Tensor,  # [N, C, h, w] float in [0, 1], any strides
    ) -> Tensor:  # [N, C, h * scale, w * scale] fp32 on this device
        """The network alone, queued on the device's current stream. Raises LimitError when memory is short."""
        n, c, h, w = x.shape
        if c != self.plan.channels:
            raise ModelError(f"the network reads {self.plan.channels} channels, the tensor has {c}")
        x = x.to(self.device, torch.float32)
        if not x.numel():
            return x.new_empty((n, c, h * self.plan.scale, w * self.plan.scale))
        with torch.no_grad(), on(self.device):
            side = self._side(n, h, w)
            while True:
                try:
                    return self._whole(x) if side is None else self._tiled(x, side)
                except torch.cuda.OutOfMemoryError:
                    largest = max(h, w) if side is None else side
                    if largest <= SMALLEST:
                        raise LimitError(
                            f"{self.isa} has too little free memory for tiles of {largest}x{largest} pixels"
                        ) from None
                    side = max(SMALLEST, -(-largest // 2))
                self._forget()

    def bytes(self, n: int, h: int, w: int) -> int:
        """Device memory of a run of n images at once: values that live together, and scratch that grows with the image."""
        shapes = self._shapes()
        peak, living = 0, {INPUT: self.plan.channels * 4 * h * w}
        for stage in self.stages:
            living[stage.out] = stages.bytes_of(stage, shapes, h, w, self.dtype.itemsize)
            peak = max(peak, sum(living.values()) + stage.scratch * h * w * shapes[stage.inputs[0]][1] ** 2)
            for name in stage.frees:
                living.pop(name)
        return n * peak

    def traffic(self, n: int, h: int, w: int) -> int:
        """Bytes that the stages read and write at least, for n images: every input and output once."""
        shapes = self._shapes()
        of = {stage.out: stages.bytes_of(stage, shapes, h, w, self.dtype.itemsize) for stage in self.stages}
        of[INPUT] = self.plan.channels * 4 * h * w
        return n * sum(of[stage.out] + sum(of[name] for name in stage.inputs) for stage in self.stages)

    def _shapes(self) -> dict[str, tuple[int, int]]:
        """Value -> channels, and how many times as large as the input it is."""
        rows = self.session.explain(SMALLEST, SMALLEST)
        return {row["out"]: (row["shape"][0], row["shape"][1] // SMALLEST) for row in rows} | {
            INPUT: (self.plan.channels, 1)
        }

    def _side(self, n: int, h: int, w: int) -> int | None:
        """Side of the tiles asked for, None for whole images."""
        if self.tile:
            return self.tile if self.tile < max(h, w) or n > 1 else None
        if self.memory_limit is None or self.bytes(n, h, w) <= self.memory_limit:
            return None
        side = max(h, w)
        while side > SMALLEST:
            halo = (min(h, side + 2 * self.radius), min(w, side + 2 * self.radius))
            if self.bytes(1, *halo) <= self.memory_limit:
                return side
            side = max(SMALLEST, side * 3 // 4)
        halo = (min(h, side + 2 * self.radius), min(w, side + 2 * self.radius))
        if self.bytes(1, *halo) > self.memory_limit:
            raise LimitError(
                f"memory_limit={self.memory_limit} is too low: tiles of {side}x{side} need {self.bytes(1, *halo)} bytes"
            )
        return side

    def _tiled(self, x: Tensor, side: int) -> Tensor:
        """Image by image, tile by tile. All crops have one size, so that they take the same kernels and one graph."""
        n, c, h, w = x.shape
        s, r = self.plan.scale, self.radius
        ch, cw = min(h, side + 2 * r), min(w, side + 2 * r)
        out = x.new_empty((n, c, h * s, w * s))
        for i in range(n):
            for y0, x0, y1, x1 in _core.tile_grid(h, w, side, side):
                # A crop holds the tile's halo as far as the image goes, and more where it would be smaller.
                cy, cx = max(0, min(y0 - r, h - ch)), max(0, min(x0 - r, w - cw))
                part = self._whole(x[i : i + 1, :, cy : cy + ch, cx : cx + cw])
                rows, columns = slice((y0 - cy) * s, (y1 - cy) * s), slice((x0 - cx) * s, (x1 - cx) * s)
                out[i, :, y0 * s : y1 * s, x0 * s : x1 * s] = part[0, :, rows, columns]
        return out

    def _whole(self, x: Tensor) -> Tensor:
        if self.device.type != "cuda" or not all(stage.capturable for stage in self.stages):
            return self._eager(x)
        key = tuple(x.shape)
        with self._lock:
            graph = self._graphs.get(key)
            if graph is None and key not in self._seen:
                self._seen.add(key)  # one image of a size is not worth a capture, and its run compiles the kernels
                return self._eager(x)
            if key in self._uncaptured:
                return self._eager(x)
            if graph is None:
                try:
                    graph = self._capture(x)
                except RuntimeError:  # most likely memory is short: launches one by one may still fit
                    self._uncaptured.add(key)
                    return self._eager(x)
            self._graphs.move_to_end(key)
            return graph.replay(x)

    def _capture(self, x: Tensor) -> _Graph:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            self._turn = torch.cuda.Event()  # type: ignore[no-untyped-call]
        graph = _Graph(self._eager, x, self._pool, self._turn)
        self._graphs[tuple(x.shape)] = graph
        while len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _forget(self) -> None:
        """Give the memory of graphs and of freed tensors back."""
        with self._lock:
            self._graphs.clear()
            self._pool = None
        torch.cuda.empty_cache()

    def _eager(self, x: Tensor) -> Tensor:
        values = {INPUT: x}
        for stage in self.stages:
            inputs = [values[name] for name in stage.inputs]
            values[stage.out] = stage.run(inputs, self._choose(stage, inputs))
            for name in stage.frees:
                del values[name]
        return values[OUTPUT].contiguous()

    def _choose(self, stage: stages.Stage, inputs: Sequence[Tensor]) -> stages.Candidate | None:
        shape = inputs[0].shape
        if self.measures and len(stage.implementations) > 1 and self.choices.is_new(stage, shape):
            tuning.tune(stage, inputs, self.choices, None, defaults=True)
        return self.choices.of(stage, shape)

    def tune(self, n: int, h: int, w: int, measure: tuning.Measure | None = None) -> list[dict[str, Any]]:
        """Time every candidate of every stage on images of this size; keep the fastest that is right, on disk as well.

        Returns a row per candidate: stage, who, config, error, limit, seconds (None: not eligible).
        """
        rows = []
        with torch.no_grad(), on(self.device), self._lock:
            for compared in self._compared(n, h, w):
                rows += tuning.choose(compared, self.choices, measure)
            self._graphs.clear()
        return rows

    def trials(self, n: int, h: int, w: int) -> list[list[tuning.Trial]]:
        """The first half of `tune`: everything compiled and compared, nothing timed. Holds every stage's inputs."""
        with torch.no_grad(), on(self.device), self._lock:
            return list(self._compared(n, h, w))

    def choose(self, trials: Sequence[Sequence[tuning.Trial]], measure: tuning.Measure | None) -> list[dict[str, Any]]:
        """The second half, for when nothing else runs on the device."""
        with torch.no_grad(), on(self.device), self._lock:
            rows = [row for compared in trials for row in tuning.choose(compared, self.choices, measure)]
            self._graphs.clear()
        return rows

    def _compared(self, n: int, h: int, w: int) -> Iterator[list[tuning.Trial]]:
        """Per stage its trials, of stages that share results the first's only."""
        values = {INPUT: torch.rand((n, self.plan.channels, h, w), device=self.device)}
        seen = set()
        for stage in self.stages:
            inputs = [values[name] for name in stage.inputs]
            row = tuning.row_of(stage, inputs[0].shape)
            if row not in seen:
                seen.add(row)
                yield tuning.trials(stage, inputs)
            values[stage.out] = stage.run(inputs, self.choices.of(stage, inputs[0].shape))
            for name in stage.frees:
                del values[name]

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        of = {step.out: stage for stage in self.stages for step in stage.steps}
        found = self.session.explain(h, w)
        shapes = {INPUT: (self.plan.channels, h, w)} | {row["out"]: row["shape"] for row in found}
        rows = []
        for row in found:
            stage = of[row["out"]]
            chosen = self.choices.of(stage, (1, *shapes[stage.inputs[0]]))
            who = f"{stage.implementations[0].name if chosen is None else chosen.implementation} {stage.precision}"
            if chosen is not None:
                who += " tuned"
            if stage.note:
                who += f" ({stage.note})"
            rows.append({key: row[key] for key in ("op", "out", "shape", "radius", "flops", "bytes")} | {"who": who})
        return rows


class _Graph:
    """One shape's launches, replayed at once.

    All graphs share one pool of memory, so replays follow each other, on whatever streams they are asked for.
    """

    def __init__(self, eager: Callable[[Tensor], Tensor], x: Tensor, pool: Any, turn: Any) -> None:
        self.x = torch.empty(x.shape, device=x.device)
        self.x.copy_(x)
        self.graph = torch.cuda.CUDAGraph()
        self.turn = turn
        torch.cuda.synchronize(x.device)
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.out = eager(self.x)

    def replay(self, x: Tensor) -> Tensor:
        torch.cuda.current_stream().wait_event(self.turn)
        self.x.copy_(x)
        self.graph.replay()
        out = self.out.clone()
        self.turn.record()
        return out


def on(device: torch.device) -> Any:
    """Make `device` the current one; nothing to do for a CPU."""
    import contextlib

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class GpuExecutor:
    """An executor by its ordered backends."""

    def __init__(self, name: str, backends: Sequence[str], rivals: bool = False) -> None:
        self.name, self.backends, self.rivals = name, tuple(backends), rivals

    def supports(self, plan: Plan) -> str | None:
        missing = sorted({step.op for step in plan.steps} - set(OPS))
        return f"no reference for {', '.join(missing)}" if missing else None

    def prepare(
        self,
        plan: Plan,
        weights: Mapping[str, np.ndarray],
        *,
        threads: int | None = None,
        tile: int = 0,
        memory_limit: int | None = None,
        precision: str = "fp32",
        device: str = "cuda",
    ) -> PreparedGpu | multi_gpu.MultiGpu:
        """Pack a plan for `device`: "cuda", "cuda:1", several GPUs, or "cpu" under TRITON_INTERPRET=1. `threads` is not used.

        Raises DeviceError that says what is missing (fp8: compute capability 8.9), ModelError for a broken plan.
        """
        if precision not in PRECISIONS:
            raise DeviceError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)} for a GPU")
        missing = devices.missing(device)
        if missing:
            raise DeviceError(f"device {device!r}: {missing}")
        places = devices.each(device)
        for place in places:
            if precision == "fp8" and (missing := fp8.missing(place)):
                raise DeviceError(f"precision 'fp8': {missing}")
        made = [
            PreparedGpu(
                plan,
                weights,
                backends=self.backends,
                rivals=self.rivals,
                device=one,
                precision=precision,
                tile=tile,
                memory_limit=memory_limit,
            )
            for one in places
        ]
        return made[0] if len(made) == 1 else multi_gpu.MultiGpu(made)


EXECUTOR = GpuExecutor("gpu", ("triton", "cuda", "torch"), rivals=True)
