# SPDX-License-Identifier: Apache-2.0
"""What an Upscaler is built on: an engine takes images of any kind and gives them back enlarged, alone or in a stream.

Two have the protocol: fastsr.host on the CPU, and the GPUs' in fastsr.gpu.stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from fastsr.errors import FastsrError, ModelError

RETURNED_ERRORS = (FastsrError, MemoryError)
"""what may be wrong with one image and not with the next"""
TURNS = 8
"""flips and turns of a self-ensemble (paper 002)"""

Array = TypeVar("Array")


@dataclass(frozen=True)
class Job:
    """What an engine is made for."""

    name: str
    domain: str  # "y" or "rgb": what the network reads
    scale: int
    self_ensemble: bool
    threads: int

    def not_finite(self) -> ModelError:
        return ModelError(f"model '{self.name}' gave values that are not finite for this image")


@dataclass(frozen=True)
class Task:
    """An image, or a part of a batch, on its way."""

    wait: Callable[[], object]
    result: Callable[[], Any]
    """waits, and raises what was wrong with the values"""


class Queue(Protocol):
    """The images of one stream, which come out in the order in which they were put in."""

    @property
    def ahead(self) -> int:
        """Images that are on their way at once."""
        ...

    def submit(self, img: Any) -> Task:
        """Put an image in; it may be written again afterwards. Raises what can be said without reading its values."""
        ...

    def close(self) -> None:
        """End the work on what was put in and not waited for."""
        ...


class Engine(Protocol):
    """A loaded network with what is around it. May be called from many threads at once."""

    @property
    def radius(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @property
    def busy(self) -> float:
        """Seconds that the network ran, of all calls together; 0 on GPUs, where nobody waits to count."""
        ...

    def memory(self, h: int, w: int) -> int:
        """Bytes that a run of an h x w input holds, packed weights included; 0 where it is not known."""
        ...

    def upscale(self, img: Any) -> Any:
        """See Upscaler.upscale."""
        ...

    def queue(self) -> Queue:
        """For a stream."""
        ...

    def run(
        self,
        planes: np.ndarray,  # [C, h, w] f32
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32
        """The network alone, with its self-ensemble."""
        ...

    def explain(self, h: int, w: int) -> list[dict[str, Any]]: ...

    def tune(self, n: int, h: int, w: int) -> list[dict[str, Any]]:
        """See Upscaler.tune. Raises DeviceError where there is nothing to tune."""
        ...


def stream(queue: Queue, images: Iterable[Any], return_exceptions: bool) -> Generator[Any, None, None]:
    """The images in order, as many on their way as the queue takes: see Upscaler.stream."""
    source = iter(images)
    queued: deque[Task] = deque()
    end: Exception | None = None  # what ends the stream, when those before it are given
    try:
        while True:
            while end is None and len(queued) < queue.ahead:
                try:
                    img = next(source)
                except Exception as e:  # StopIteration, or what the iterator raises
                    end = e
                    break
                try:
                    queued.append(queue.submit(img))
                except Exception as e:
                    if return_exceptions and isinstance(e, RETURNED_ERRORS):
                        queued.append(_failed(e))
                    else:
                        end = e
                del img
            if not queued:
                if end is None or isinstance(end, StopIteration):
                    return
                raise end
            yield _outcome(queued.popleft(), return_exceptions)
    finally:
        queue.close()
        for task in queued:
            task.wait()


def _outcome(task: Task, return_exceptions: bool) -> Any:
    """A result, or in its place what is wrong with this image."""
    try:
        return task.result()
    except RETURNED_ERRORS as e:
        if not return_exceptions:
            raise
        return e


def _failed(e: Exception) -> Task:
    def result() -> Any:
        raise e

    return Task(lambda: None, result)


def turned_sum(
    run: Callable[[Array], Array],
    x: Array,  # [..., h, w]
    turns: Iterable[int],
    xp: Any,  # the module of the array: numpy or torch
) -> Array:  # [..., h * scale, w * scale] f64
    """The sum over some of the 8 flips and turns of a self-ensemble, each turned back; its mean is over TURNS."""
    total: Any = None
    for turn in turns:
        turned = xp.rot90(xp.flip(x, (-1,)) if turn >= 4 else x, turn % 4, (-2, -1))
        y = xp.rot90(run(turned), -(turn % 4), (-2, -1))
        y = xp.asarray(xp.flip(y, (-1,)) if turn >= 4 else y, dtype=xp.float64)
        total = y if total is None else total + y
    made: Array = total
    return made
