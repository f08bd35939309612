# SPDX-License-Identifier: Apache-2.0
"""Images through one or several GPUs: pinned memory, a stream each for the way there, the work and the way back.

An image of the host goes as it is, bytes as bytes, and becomes planes on the device. Nothing waits for the device but what
hands a result out, so several images are on their way at once. A CPU, where Triton's interpreter stands in for a GPU, has
lanes on which everything is done when it is queued.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastsr import alpha, image
from fastsr.engine import Job, Task
from fastsr.errors import LimitError
from fastsr.gpu import tensors

IN_FLIGHT = 3
"""images on their way per GPU: one goes there, one is worked on, one comes back"""
HEAD = 16
"""bytes before the pixels that come back: the verdict's two numbers, and what keeps pixels aligned"""


class Mark(Protocol):
    """A point in a lane's queue."""

    def synchronize(self) -> None:
        """Wait until it is reached."""
        ...


class Lane:
    """A CUDA stream of ours."""

    def __init__(self, device: torch.device) -> None:
        self.stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def do(self, work: Callable[[], None], after: Mark | None = None) -> Mark:
        """Queue what `work` launches behind `after`; the mark is reached when it is done."""
        with self.within():
            if after is not None:
                self.stream.wait_event(after)
            work()
            mark: Mark = self.stream.record_event()
        return mark

    def within(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream)

    def called(self) -> Mark:
        """The mark of what the caller has queued so far, on the current stream."""
        mark: Mark = torch.cuda.current_stream(self.stream.device).record_event()
        return mark

    def hold(self, mark: Any) -> None:
        """What the caller queues from now on comes after `mark`."""
        torch.cuda.current_stream(self.stream.device).wait_event(mark)

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class AtOnce:
    """A lane and all its marks, where there are no streams."""

    def do(self, work: Callable[[], None], after: Mark | None = None) -> Mark:
        work()
        return self

    def within(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def called(self) -> Mark:
        return self

    def hold(self, mark: Mark) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)


class Line:
    """A GPU with its lanes. They are made once: memory that torch keeps belongs to a stream."""

    def __init__(self, prepared: tensors.OnDevice, domain: str, scale: int) -> None:
        self.prepared, self.device = prepared, prepared.device
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.enlarge = tensors.Enlarger(self.device, domain, scale)
        made = (Lane(self.device) if self.device.type == "cuda" else AtOnce() for _ in range(3))
        self.up, self.work, self.down = made
        self.work.do(lambda: None, after=self.work.called())  # weights were packed on the current stream

    def within(self) -> contextlib.AbstractContextManager[Any]:
        return self.work.within()

    def far(self, x: Tensor) -> bool:
        """Whether x lies on the host and the network does not."""
        return x.device.type != self.device.type


class Slot:
    """The buffers of one image on its way; they grow to the largest and are used again."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.there, self.back = line.up.pinned(0), line.up.pinned(0)
        self.x = self.y = torch.empty(0, dtype=torch.uint8, device=line.device)
        self.mark: Mark | None = None

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
            self.there = self.line.up.pinned(size)
        if self.back.numel() < end:
            self.back = self.line.up.pinned(end)
        self.given, self.made = _view(self.there, 0, shape, planar, dtype), _view(self.back, HEAD, out, planar, dtype)
        fill(self.given)

        def up() -> None:
            self.x = self._on_device(self.x, size)
            self.x[:size].copy_(self.there[:size], non_blocking=True)

        def work() -> None:
            self.y = self._on_device(self.y, end)
            bad = self.y[:8].view(torch.int32).zero_()
            x, y = _view(self.x, 0, shape, planar, dtype), _view(self.y, HEAD, out, planar, dtype)
            self.line.enlarge(x, y, bad, run)

        def down() -> None:
            self.back[:end].copy_(self.y[:end], non_blocking=True)

        line = self.line
        self.mark = line.up.do(up)
        try:
            self.mark = line.work.do(work, after=self.mark)
            self.mark = line.down.do(down, after=self.mark)
        except BaseException:
            self.mark.synchronize()
            line.work.do(lambda: None).synchronize()  # what was queued before it failed still reads our buffers
            raise

    def receive(self) -> tuple[Sequence[int], Tensor]:
        """Wait; then the verdict and the pixels [N, s H, s W, C], which the next image overwrites."""
        self.wait()
        return self.back[:8].view(torch.int32).tolist(), self.made

    def wait(self) -> None:
        if self.mark is not None:
            self.mark.synchronize()

    def _on_device(self, buffer: Tensor, size: int) -> Tensor:
        """Memory of the current lane, which uses it first."""
        return buffer if buffer.numel() >= size else torch.empty(size, dtype=torch.uint8, device=self.line.device)


def _view(buffer: Tensor, begin: int, shape: tuple[int, ...], planar: bool, dtype: torch.dtype) -> Tensor:
    """[N, H, W, C] in a buffer of bytes."""
    n, h, w, c = shape
    flat = buffer[begin : begin + n * h * w * c * dtype.itemsize].view(dtype)
    return flat.view(n, c, h, w).permute(0, 2, 3, 1) if planar else flat.view(shape)


class Slots:
    """Slots that are free."""

    def __init__(self) -> None:
        self._free: dict[Line, list[Slot]] = {}

    def take(self, line: Line) -> Slot:
        free = self._free.get(line)
        return free.pop() if free else Slot(line)

    def give_back(self, slot: Slot) -> None:
        self._free.setdefault(slot.line, []).append(slot)


class GpuMember(tensors.OnDevice, Protocol):
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
        self.lines = [Line(prepared, job.domain, job.scale) for prepared in members]
        self._members, self.isa, self._job = members, isa, job
        self.radius = members[0].radius

    def upscale(self, img: Any) -> Any:
        """An image by the first GPU, its self-ensemble by all; a batch is divided among them."""
        return self.submit(img, self.lines, Slots()).result()

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
        line, found = self.lines[0], []

        def work() -> None:
            x = torch.from_numpy(np.array(planes, np.float32))[None].to(line.device)
            found.append(self._network(self.lines)(x)[0].cpu().numpy())

        with torch.no_grad():
            line.work.do(work, after=line.work.called()).synchronize()
        return np.ascontiguousarray(found[0])

    def _network(self, lines: Sequence[Line]) -> Callable[[Tensor], Tensor]:
        return (lambda x: tensors.ensemble(x, lines)) if self._job.self_ensemble else lines[0].prepared.run_tensor

    def submit(self, img: Any, lines: Sequence[Line], slots: Slots) -> Task:
        """Queue an image of any kind. Raises InputError and LimitError where its values need not be read for them."""
        try:
            with torch.no_grad():
                if image.is_tensor(img):
                    return self._tensor(img, lines, slots)
                return self._pixels(image.pixels(img), lines, slots)
        except torch.cuda.OutOfMemoryError:
            raise LimitError("the GPU has too little free memory for this image: cut it") from None

    def _pixels(self, pixels: image.Pixels, lines: Sequence[Line], slots: Slots) -> Task:
        a = pixels.array
        h, w = a.shape[:2]
        image.check_output(h, w, self._job.scale)
        packed = (a if a.ndim == 3 else a[:, :, None])[None]
        channels = packed.shape[3]
        hidden = packed[0, :, :, -1] == 0 if channels in (2, 4) else None
        given = packed[0]
        if hidden is not None and hidden.any():
            given = packed[0].copy()
            packed = alpha.extended(given, hidden, self.radius + alpha.MARGIN)[None]
        else:
            hidden = None

        def fill(to: Tensor) -> None:
            np.copyto(to.numpy(), packed)

        def finish(made: Tensor) -> Any:
            out = np.empty((h * self._job.scale, w * self._job.scale, channels), pixels.dtype)
            torch.from_numpy(out).copy_(made[0])
            if hidden is not None:
                alpha.keep_hidden(given, out)
            return pixels.restore(out)

        def check(given: Tensor) -> None:  # not the caller's array: a decoder may have the next frame in it
            image.check_values(given.numpy().reshape(a.shape))

        kind = getattr(torch, pixels.dtype.name)
        return self._through(slots, lines, (1, h, w, channels), False, kind, fill, finish, check)

    def _through(
        self,
        slots: Slots,
        lines: Sequence[Line],
        shape: tuple[int, int, int, int],
        planar: bool,
        dtype: torch.dtype,
        fill: Callable[[Tensor], None],
        finish: Callable[[Tensor], Any],
        check: Callable[[Tensor], None],
    ) -> Task:
        """Queue pixels of the host through a slot of the first line, which is free again when the result is given."""
        slot = slots.take(lines[0])
        try:
            slot.send(shape, planar, dtype, self._job.scale, fill, self._network(lines))
        except BaseException:
            slots.give_back(slot)
            raise

        def result() -> Any:
            bad, made = slot.receive()
            try:
                tensors.judge(bad, lambda: check(slot.given), self._job)
                return finish(made)
            finally:
                slots.give_back(slot)

        return Task(slot.wait, result)

    def _tensor(self, img: Tensor, lines: Sequence[Line], slots: Slots) -> Task:
        """A batch in parts, one for each line."""
        image.check_tensor(img)
        batch = img.detach() if img.ndim == 4 else img.detach()[None]
        n, c, h, w = batch.shape
        image.check_output(h, w, self._job.scale)
        out = batch.new_empty((n, c, h * self._job.scale, w * self._job.scale))

        def check(given: Tensor) -> None:
            image.check_values(img.detach().float().cpu().numpy(), channels_first=True)

        groups = [[line] for line in lines] if n > 1 else [lines]
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
        self, x: Tensor, to: Tensor, lines: Sequence[Line], slots: Slots, check: Callable[[Tensor], None]
    ) -> Task:
        n, c, h, w = x.shape

        def fill(given: Tensor) -> None:
            given.copy_(x.permute(0, 2, 3, 1))

        def finish(made: Tensor) -> None:
            to.permute(0, 2, 3, 1).copy_(made)

        return self._through(slots, lines, (n, h, w, c), True, _taken(x.dtype), fill, finish, check)

    def _device_part(
        self, x: Tensor, to: Tensor, lines: Sequence[Line], slots: Slots, check: Callable[[Tensor], None]
    ) -> Task:
        """In place where x lies on the line's device in fp32, else by way of copies between devices."""
        line, run = lines[0], self._network(lines)
        verdict = line.down.pinned(8)

        def work() -> None:
            kind = _taken(x.dtype)
            given = x.to(line.device, kind)
            straight = to.device == line.device and to.dtype == kind
            made = to if straight else torch.empty(to.shape, dtype=kind, device=line.device)
            bad = torch.zeros(2, dtype=torch.int32, device=line.device)
            line.enlarge(given.permute(0, 2, 3, 1), made.permute(0, 2, 3, 1), bad, run)
            verdict.copy_(bad.view(torch.uint8), non_blocking=True)
            if not straight:
                to.copy_(made)

        mark = line.work.do(work, after=line.work.called())
        line.work.hold(mark)

        def result() -> None:
            mark.synchronize()
            tensors.judge(verdict.view(torch.int32).tolist(), lambda: check(x), self._job)

        return Task(mark.synchronize, result)


class FeedQueue:
    """The images of a stream, GPUs taking turns (fastsr.engine.Queue)."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._slots = feed, Slots()
        self._turns = itertools.cycle(feed.lines)
        self.ahead = IN_FLIGHT * len(feed.lines)

    def submit(self, img: Any) -> Task:
        return self._feed.submit(img, [next(self._turns)], self._slots)

    def close(self) -> None:
        """Nothing on its way can be recalled."""
