# SPDX-License-Identifier: Apache-2.0
"""Images through one or several GPUs: pinned memory, a stream each for the way there, the work and the way back.

An image of the host goes as it is, bytes as bytes, and becomes planes on the device. Nothing waits for the device but what
hands a result out, so several images are on their way at once. A CPU, where Triton's interpreter stands in for a GPU, has
streams on which everything is done when it is queued.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastsr import _core, image
from fastsr.engine import Job, Task
from fastsr.errors import LimitError
from fastsr.gpu import device_pixels

IN_FLIGHT = 3
"""images on their way per GPU: one goes there, one is worked on, one comes back"""
HEAD = 16
"""bytes before the pixels that come back: the verdict's two numbers, and what keeps pixels aligned"""


class Event(Protocol):
    """A point in a stream's queue."""

    def synchronize(self) -> None:
        """Wait until it is reached."""
        ...


class CudaStream:
    """A CUDA stream of ours."""

    def __init__(self, device: torch.device) -> None:
        self.stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def do(self, work: Callable[[], None], after: Event | None = None) -> Event:
        """Queue what `work` launches behind `after`; the event is reached when it is done."""
        with self.within():
            if after is not None:
                self.stream.wait_event(after)
            work()
            event: Event = self.stream.record_event()
        return event

    def within(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream)

    def called(self) -> Event:
        """The event of what the caller has queued so far, on the current stream."""
        event: Event = torch.cuda.current_stream(self.stream.device).record_event()
        return event

    def hold(self, event: Any) -> None:
        """What the caller queues from now on comes after `event`."""
        torch.cuda.current_stream(self.stream.device).wait_event(event)

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class NoStream:
    """A stream and all its events, where there are no streams."""

    def do(self, work: Callable[[], None], after: Event | None = None) -> Event:
        work()
        return self

    def within(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def called(self) -> Event:
        return self

    def hold(self, event: Event) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)


class GpuStreams:
    """A GPU with its streams. They are made once: memory that torch keeps belongs to a stream."""

    def __init__(self, prepared: device_pixels.OnDevice, domain: str, scale: int) -> None:
        self.prepared, self.device = prepared, prepared.device
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.enlarge = device_pixels.Enlarger(self.device, domain, scale)
        made = (CudaStream(self.device) if self.device.type == "cuda" else NoStream() for _ in range(3))
        self.up, self.work, self.down = made
        self.work.do(lambda: None, after=self.work.called())  # weights were packed on the current stream

    def within(self) -> contextlib.AbstractContextManager[Any]:
        return self.work.within()

    def far(self, x: Tensor) -> bool:
        """Whether x lies on the host and the network does not."""
        return x.device.type != self.device.type


class Slot:
    """The buffers of one image on its way; they grow to the largest and are used again."""

    def __init__(self, gpu: GpuStreams) -> None:
        self.gpu = gpu
        self.there, self.back = gpu.up.pinned(0), gpu.up.pinned(0)
        self.x = self.y = torch.empty(0, dtype=torch.uint8, device=gpu.device)
        self.event: Event | None = None

    def send(
        self,
        shape: tuple[int, int, int, int],  # N, H, W, C
        planar: bool,  # the planes of an image one after another
        dtype: torch.dtype,
        scale: int,
        fill: Callable[[Tensor], None],  # writes the pixels, [N, H, W, C]
        run: Callable[[Tensor], Tensor],
    ) -> None:
        """Queue an image's way there, its work and its way back."""
        n, h, w, c = shape
        out = (n, h * scale, w * scale, c)
        size, end = n * h * w * c * dtype.itemsize, HEAD + n * h * w * c * dtype.itemsize * scale**2
        if self.there.numel() < size:
            self.there = self.gpu.up.pinned(size)
        if self.back.numel() < end:
            self.back = self.gpu.up.pinned(end)
        self.given, self.made = _view(self.there, 0, shape, planar, dtype), _view(self.back, HEAD, out, planar, dtype)
        fill(self.given)

        def up() -> None:
            self.x = self._on_device(self.x, size)
            self.x[:size].copy_(self.there[:size], non_blocking=True)

        def work() -> None:
            self.y = self._on_device(self.y, end)
            bad = self.y[:8].view(torch.int32).zero_()
            x, y = _view(self.x, 0, shape, planar, dtype), _view(self.y, HEAD, out, planar, dtype)
            self.gpu.enlarge(x, y, bad, run)

        def down() -> None:
            self.back[:end].copy_(self.y[:end], non_blocking=True)

        gpu = self.gpu
        self.event = gpu.up.do(up)
        try:
            self.event = gpu.work.do(work, after=self.event)
            self.event = gpu.down.do(down, after=self.event)
        except BaseException:
            self.event.synchronize()
            gpu.work.do(lambda: None).synchronize()  # what was queued before it failed still reads our buffers
            raise

    def receive(self) -> tuple[Sequence[int], Tensor]:
        """Wait; then the verdict and the pixels [N, s H, s W, C], which the next image overwrites."""
        self.wait()
        return self.back[:8].view(torch.int32).tolist(), self.made

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()

    def _on_device(self, buffer: Tensor, size: int) -> Tensor:
        """Memory of the current stream, which uses it first."""
        return buffer if buffer.numel() >= size else torch.empty(size, dtype=torch.uint8, device=self.gpu.device)


def _view(buffer: Tensor, begin: int, shape: tuple[int, ...], planar: bool, dtype: torch.dtype) -> Tensor:
    """[N, H, W, C] in a buffer of bytes."""
    n, h, w, c = shape
    flat = buffer[begin : begin + n * h * w * c * dtype.itemsize].view(dtype)
    return flat.view(n, c, h, w).permute(0, 2, 3, 1) if planar else flat.view(shape)


class Slots:
    """Slots that are free."""

    def __init__(self) -> None:
        self._free: dict[GpuStreams, list[Slot]] = {}

    def take(self, gpu: GpuStreams) -> Slot:
        free = self._free.get(gpu)
        return free.pop() if free else Slot(gpu)

    def give_back(self, slot: Slot) -> None:
        self._free.setdefault(slot.gpu, []).append(slot)


class GpuMember(device_pixels.OnDevice, Protocol):
    """A plan prepared for one GPU."""

    @property
    def radius(self) -> int: ...

    @property
    def isa(self) -> str: ...

    def explain(self, h: int, w: int) -> list[dict[str, Any]]: ...

    def tune(self, n: int, h: int, w: int) -> list[dict[str, Any]]: ...


def _taken(dtype: torch.dtype) -> torch.dtype:
    """What a tensor's samples are worked on as: 8 and 16 bits as they are, all floats as fp32."""
    return dtype if dtype in (torch.uint8, torch.uint16) else torch.float32


class Feed:
    """The engine of one or several GPUs (fastsr.engine.Engine): images and batches, streams of them, the network alone."""

    def __init__(self, members: Sequence[GpuMember], isa: str, job: Job) -> None:
        self.gpus = [GpuStreams(prepared, job.domain, job.scale) for prepared in members]
        self._members, self.isa, self._job = members, isa, job
        self.radius = members[0].radius

    def upscale(self, img: Any) -> Any:
        """An image by the first GPU, its self-ensemble by all; a batch is divided among them."""
        return self.submit(img, self.gpus, Slots()).result()

    def queue(self) -> FeedQueue:
        return FeedQueue(self)

    @property
    def busy(self) -> float:
        return 0.0

    def memory(self, h: int, w: int) -> int:
        return 0

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        return self._members[0].explain(h, w)

    def tune(self, n: int, h: int, w: int) -> list[dict[str, Any]]:
        """Each GPU by itself: they may be of different kinds. The rows of all."""
        return [row for member in self._members for row in member.tune(n, h, w)]

    def run(self, planes: np.ndarray) -> np.ndarray:
        """The network alone on the host's planes [C, h, w] f32."""
        gpu, found = self.gpus[0], []

        def work() -> None:
            x = torch.from_numpy(np.array(planes, np.float32))[None].to(gpu.device)
            found.append(self._network(self.gpus)(x)[0].cpu().numpy())

        with torch.no_grad():
            gpu.work.do(work, after=gpu.work.called()).synchronize()
        return np.ascontiguousarray(found[0])

    def _network(self, gpus: Sequence[GpuStreams]) -> Callable[[Tensor], Tensor]:
        return (lambda x: device_pixels.ensemble(x, gpus)) if self._job.self_ensemble else gpus[0].prepared.run_tensor

    def submit(self, img: Any, gpus: Sequence[GpuStreams], slots: Slots) -> Task:
        """Queue an image of any kind. Raises InputError and LimitError where its values need not be read for them."""
        try:
            with torch.no_grad():
                if image.is_tensor(img):
                    return self._tensor(img, gpus, slots)
                return self._pixels(image.pixels(img), gpus, slots)
        except torch.cuda.OutOfMemoryError:
            raise LimitError("the GPU has too little free memory for this image: cut it") from None

    def _pixels(self, pixels: image.Pixels, gpus: Sequence[GpuStreams], slots: Slots) -> Task:
        a = pixels.array
        h, w = a.shape[:2]
        image.check_output(h, w, self._job.scale)
        packed = (a if a.ndim == 3 else a[:, :, None])[None]
        channels = packed.shape[3]
        whole = _core.Pixels(packed[0])
        seen = whole.visible(self.radius)
        hiding = seen is not whole
        if hiding:  # the caller may write its array before the result is fetched
            whole, packed = _core.Pixels(packed[0].copy()), seen.array[None]

        def fill(to: Tensor) -> None:
            np.copyto(to.numpy(), packed)

        def finish(made: Tensor) -> Any:
            out = np.empty((h * self._job.scale, w * self._job.scale, channels), pixels.dtype)
            torch.from_numpy(out).copy_(made[0])
            if hiding:
                _core.keep_hidden(whole, _core.Pixels(out))
            return pixels.restore(out)

        def check(given: Tensor) -> None:  # not the caller's array: a decoder may have the next frame in it
            image.check_values(given.numpy().reshape(a.shape))

        kind = getattr(torch, pixels.dtype.name)
        return self._through(slots, gpus, (1, h, w, channels), False, kind, fill, finish, check)

    def _through(
        self,
        slots: Slots,
        gpus: Sequence[GpuStreams],
        shape: tuple[int, int, int, int],
        planar: bool,
        dtype: torch.dtype,
        fill: Callable[[Tensor], None],
        finish: Callable[[Tensor], Any],
        check: Callable[[Tensor], None],
    ) -> Task:
        """Queue pixels of the host through a slot of the first gpu, which is free again when the result is given."""
        slot = slots.take(gpus[0])
        try:
            slot.send(shape, planar, dtype, self._job.scale, fill, self._network(gpus))
        except BaseException:
            slots.give_back(slot)
            raise

        def result() -> Any:
            bad, made = slot.receive()
            try:
                device_pixels.judge(bad, lambda: check(slot.given), self._job)
                return finish(made)
            finally:
                slots.give_back(slot)

        return Task(slot.wait, result)

    def _tensor(self, img: Tensor, gpus: Sequence[GpuStreams], slots: Slots) -> Task:
        """A batch in parts, one for each gpu."""
        image.check_tensor(img)
        batch = img.detach() if img.ndim == 4 else img.detach()[None]
        n, c, h, w = batch.shape
        image.check_output(h, w, self._job.scale)
        out = batch.new_empty((n, c, h * self._job.scale, w * self._job.scale))

        def check(given: Tensor) -> None:
            image.check_values(img.detach().float().cpu().numpy(), channels_first=True)

        groups = [[gpu] for gpu in gpus] if n > 1 else [gpus]
        parts = zip(batch.tensor_split(len(groups)), out.tensor_split(len(groups)), groups, strict=True)
        tasks: list[Task] = []

        def wait() -> None:
            for task in tasks:
                task.wait()

        def result() -> Tensor:
            wait()  # for all, even when one of them was bad: they write into `out`
            for task in tasks:
                task.result()
            return out if img.ndim == 4 else out[0]

        try:
            for x, to, group in parts:
                if len(x):
                    queue = self._host_part if group[0].far(x) else self._device_part
                    tasks.append(queue(x, to, group, slots, check))
        except BaseException:
            wait()
            raise
        return Task(wait, result)

    def _host_part(
        self, x: Tensor, to: Tensor, gpus: Sequence[GpuStreams], slots: Slots, check: Callable[[Tensor], None]
    ) -> Task:
        n, c, h, w = x.shape

        def fill(given: Tensor) -> None:
            given.copy_(x.permute(0, 2, 3, 1))

        def finish(made: Tensor) -> None:
            to.permute(0, 2, 3, 1).copy_(made)

        return self._through(slots, gpus, (n, h, w, c), True, _taken(x.dtype), fill, finish, check)

    def _device_part(
        self, x: Tensor, to: Tensor, gpus: Sequence[GpuStreams], slots: Slots, check: Callable[[Tensor], None]
    ) -> Task:
        """In place where x lies on the gpu's device in fp32, else by way of copies between devices."""
        gpu, run = gpus[0], self._network(gpus)
        verdict = gpu.down.pinned(8)

        def work() -> None:
            kind = _taken(x.dtype)
            given = x.to(gpu.device, kind)
            straight = to.device == gpu.device and to.dtype == kind
            made = to if straight else torch.empty(to.shape, dtype=kind, device=gpu.device)
            bad = torch.zeros(2, dtype=torch.int32, device=gpu.device)
            gpu.enlarge(given.permute(0, 2, 3, 1), made.permute(0, 2, 3, 1), bad, run)
            verdict.copy_(bad.view(torch.uint8), non_blocking=True)
            if not straight:
                to.copy_(made)

        event = gpu.work.do(work, after=gpu.work.called())
        gpu.work.hold(event)

        def result() -> None:
            event.synchronize()
            device_pixels.judge(verdict.view(torch.int32).tolist(), lambda: check(x), self._job)

        return Task(event.synchronize, result)


class FeedQueue:
    """The images of a stream, GPUs taking turns (fastsr.engine.Queue)."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._slots = feed, Slots()
        self._turns = itertools.cycle(feed.gpus)
        self.ahead = IN_FLIGHT * len(feed.gpus)

    def submit(self, img: Any) -> Task:
        return self._feed.submit(img, [next(self._turns)], self._slots)

    def close(self) -> None:
        """Nothing on its way can be recalled."""
