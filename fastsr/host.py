# SPDX-License-Identifier: Apache-2.0
"""The engine of the CPU: kinds of images become the core's pixels and come back; a stream's network has a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastsr import _core, image
from fastsr.engine import TURNS, Job, Task, turned_sum
from fastsr.errors import DeviceError

Progress = Callable[[float], object] | None
"""given how much of a run is done, some 20 times a second; what it raises stops the run"""


class Network(Protocol):
    """A plan prepared for the host."""

    @property
    def radius(self) -> int: ...

    @property
    def isa(self) -> str: ...

    def run(
        self,
        x: np.ndarray,  # [C, h, w] f32
        progress: Progress = None,
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32
        ...

    def upscale(self, given: _core.Pixels, out: _core.Pixels, progress: Progress = None) -> bool:
        """Whether what the network gave was finite."""
        ...

    def memory(self, h: int, w: int) -> int: ...

    def explain(self, h: int, w: int) -> list[dict[str, Any]]: ...


def by_planes(
    run: Callable[[np.ndarray], np.ndarray],
    given: _core.Pixels,
    out: _core.Pixels,
    domain: str,
    scale: int,
    radius: int,
) -> bool:
    """Network.upscale where the network takes planes only."""
    seen = given.visible(radius)
    finite = _core.write_pixels(run(_core.read_pixels(seen, domain)), seen, out, domain, scale)
    if finite and seen is not given:
        _core.keep_hidden(given, out)
    return finite


@dataclass(frozen=True)
class _Work:
    """An image as the core takes it, or a batch of them."""

    items: list[tuple[np.ndarray, np.ndarray]]
    """what is read and what is written: [H, W], [H, W, C], or of tensors [C, H, W]"""
    channels_first: bool
    batch: bool
    restore: Callable[[], Any]
    """the owner's kind, when all is written"""


class HostEngine:
    """See fastsr.engine.Engine."""

    def __init__(self, network: Network, job: Job) -> None:
        self._network, self._job = network, job
        self.radius, self.isa = network.radius, network.isa
        self.busy = 0.0
        """seconds that the network ran"""

    def upscale(self, img: Any) -> Any:
        return self._do(self._take(img))

    def queue(self) -> HostQueue:
        return HostQueue(self)

    def run(self, planes: np.ndarray) -> np.ndarray:
        return self._mean(planes, None) if self._job.self_ensemble else self._network.run(planes)

    def _mean(self, planes: np.ndarray, progress: Progress) -> np.ndarray:
        total = turned_sum(lambda x: self._network.run(x, progress), planes, range(TURNS), np)
        return np.asarray(total / TURNS, np.float32)

    def memory(self, h: int, w: int) -> int:
        return self._network.memory(h, w)

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        return self._network.explain(h, w)

    def tune(self, n: int, h: int, w: int) -> list[dict[str, Any]]:
        raise DeviceError("there is nothing to tune on the CPU: load with device='cuda'")

    def _take(self, img: Any, copy: bool = False) -> _Work:
        """What can be said without reading values is raised here. copy: the image may be written before the work is done."""
        scale = self._job.scale
        if image.is_tensor(img):
            return self._take_tensor(img, copy)
        pixels = image.pixels(img)
        h, w = pixels.array.shape[:2]
        image.check_output(h, w, scale)
        given = np.array(pixels.array) if copy else pixels.array
        out = np.empty((h * scale, w * scale, *given.shape[2:]), pixels.dtype)
        return _Work([(given, out)], False, False, lambda: pixels.restore(out))

    def _take_tensor(self, img: Any, copy: bool) -> _Work:
        import torch

        image.check_tensor(img)
        scale = self._job.scale
        h, w = img.shape[-2:]
        image.check_output(h, w, scale)
        given = (img.detach().float() if img.is_floating_point() else img.detach()).cpu().numpy()
        given = np.array(given) if copy else given
        out = np.empty((*given.shape[:-2], h * scale, w * scale), given.dtype)
        batch = given.ndim == 4
        items = list(zip(given, out, strict=True)) if batch else [(given, out)]
        return _Work(items, True, batch, lambda: torch.from_numpy(out).to(img))

    def _do(self, work: _Work, progress: Progress = None) -> Any:
        for i, (given, _) in enumerate(work.items):
            _core.Pixels(given, work.channels_first).check(i if work.batch else None, self._job.threads)
        for given, out in work.items:
            if not self._pixels(given, out, work.channels_first, progress):
                raise self._job.not_finite()
        return work.restore()

    def _pixels(self, given: np.ndarray, out: np.ndarray, channels_first: bool, progress: Progress) -> bool:
        job, begin = self._job, time.perf_counter()
        source, target = _core.Pixels(given, channels_first), _core.Pixels(out, channels_first)
        if job.self_ensemble:
            finite = by_planes(lambda x: self._mean(x, progress), source, target, job.domain, job.scale, self.radius)
        else:
            finite = self._network.upscale(source, target, progress)
        self.busy += time.perf_counter() - begin
        return finite


class HostQueue:
    """One thread that runs the network while the caller reads the next image and writes the last."""

    ahead = 2

    def __init__(self, engine: HostEngine) -> None:
        self._engine, self._closed = engine, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastsr")

    def submit(self, img: Any) -> Task:
        work = self._engine._take(img, copy=True)
        future = self._thread.submit(self._run, work)
        return Task(lambda: None, future.result)

    def close(self) -> None:
        """Takes no lock and waits for nothing: a stream that was left is closed by the garbage collector, which may run
        wherever a thread is started or ended, under the very locks of threading that a shutdown needs. What is on its way
        stops at its next sign of progress, and the thread ends because its pool is gone.
        """
        self._closed = True
        del self._thread

    def _run(self, work: Any) -> Any:
        self._progress(0)
        return self._engine._do(work, self._progress)

    def _progress(self, done: float) -> None:
        if self._closed:
            raise CancelledError
