# SPDX-License-Identifier: Apache-2.0
"""Files to files: pictures are read, enlarged and written at the same time, a bad one is reported and the rest go on."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from fastsr import image, strips
from fastsr.errors import FastsrError, LimitError, OutputError
from fastsr.files import bands, metadata, resize, writing
from fastsr.files.picture import Frame, Meta, Picture
from fastsr.files.reading import guarded, open_picture
from fastsr.files.rows import row_reader
from fastsr.manifest import Manifest
from fastsr.progress import Shown
from fastsr.targets import Item
from fastsr.upscaler import Upscaler

GIVEN = (FastsrError, MemoryError)


@dataclass(frozen=True)
class Options:
    """What a batch is asked for beside its files."""

    wish: resize.Wish = field(default_factory=resize.Wish)
    saving: writing.Saving = field(default_factory=writing.Saving)
    memory_limit: int | None = None
    """bytes of the process"""
    jobs: int = 1
    overwrite: bool = False
    skip_existing: bool = False
    resume: str | None = None
    """a hash of weights and options, by which results are known again"""


@dataclass
class Stats:
    """Where the time went."""

    pictures: int = 0
    skipped: int = 0
    bad: int = 0
    pixels: int = 0
    """of results"""
    reading: float = 0.0
    writing: float = 0.0
    wall: float = 0.0
    network: float = 0.0

    def line(self) -> str:
        share = 100 * self.network / self.wall if self.wall else 0.0
        return (
            f"{self.pictures} pictures, {self.pixels / 1e6:.1f} Mpx made in {self.wall:.2f} s: the network ran {share:.0f} % of it "
            f"({self.network:.2f} s); beside it reading {self.reading:.2f} s, writing {self.writing:.2f} s"
        )


Report = Callable[[BaseException, str], int]
"""says what is wrong with a file; returns the exit code"""
Note = Callable[[str, str], None]


@dataclass
class _Work:
    """A file on its way."""

    item: Item
    picture: Picture
    size: tuple[int, int] = (0, 0)  # of the first frame's result
    images: int = 0  # given to the network and not yet back
    frame: Frame | None = None
    parts: list[bands.Part] = field(default_factory=list)
    results: list[np.ndarray] = field(default_factory=list)
    failed: bool = False


class Batch:
    """One run over many files."""

    def __init__(self, upscaler: Upscaler, options: Options, progress: Shown, report: Report, note: Note) -> None:
        self._upscaler, self._options, self._progress = upscaler, options, progress
        self._report, self._note = report, note
        self.code, self.stats = 0, Stats()
        self._manifests: dict[str, Manifest] = {}
        self._base = strips.resident()
        self._stopped = False

    def run(self, items: list[Item]) -> int:
        """The exit code: 0, or of the last file that went wrong."""
        begin, busy = time.perf_counter(), self._upscaler.busy
        with ThreadPoolExecutor(self._options.jobs, thread_name_prefix="fastsr-write") as pool:
            try:
                self._run(items, pool if len(items) > 1 else None)
            except BaseException:
                self._stopped = True  # what is being written does not take its name
                pool.shutdown(cancel_futures=True)
                raise
        self.stats.wall = time.perf_counter() - begin
        self.stats.network = self._upscaler.busy - busy
        return self.code

    def _run(self, items: list[Item], pool: ThreadPoolExecutor | None) -> None:
        waiting: deque[_Work] = deque()
        writes: deque[tuple[Item, Future[None]]] = deque()
        stream = self._upscaler.stream(self._images(items, waiting), return_exceptions=True)
        with closing(stream):
            self._take(stream, waiting, writes, pool)
        for item, future in writes:
            self._finish(item, future.result)

    def _take(
        self,
        stream: Iterator[Any],
        waiting: deque[_Work],
        writes: deque[tuple[Item, Future[None]]],
        pool: ThreadPoolExecutor | None,
    ) -> None:
        """Every result to its file."""
        for result in stream:
            work = waiting.popleft()
            if work.failed:
                continue
            if isinstance(result, Exception):
                work.failed = True
                self._bad(work.item, result)
                continue
            work.results.append(result)
            if len(work.results) < len(work.parts):
                continue
            assert work.frame is not None
            frame = bands.joined(work.frame, work.parts, work.results)
            if pool is None:
                self._finish(work.item, partial(self._write_one, work, frame))
                continue
            while writes and (len(writes) > self._options.jobs or writes[0][1].done()):
                item, future = writes.popleft()
                self._finish(item, future.result)
            writes.append((work.item, pool.submit(self._write_one, work, frame)))

    def _finish(self, item: Item, wait: Callable[[], None]) -> None:
        try:
            wait()
        except GIVEN as e:
            self._bad(item, e)
            return
        self.stats.pictures += 1
        self._progress.end(item.source, item.target)

    def _bad(self, item: Item, e: BaseException) -> None:
        self._progress.clear()
        self.code = self._report(e, item.source)
        self.stats.bad += 1
        self._progress.end(item.source, item.target, str(e))

    def _images(self, items: list[Item], waiting: deque[_Work]) -> Iterator[np.ndarray]:
        """What goes through the stream. Animations, several pages and huge pictures do not: they are done here."""
        for item in items:
            try:
                if self._is_done(item):
                    self.stats.skipped += 1
                    self._progress.end(item.source, item.target)
                    continue
                self._progress.begin(item.source)
                work = self._open(item)
                if work is None:
                    continue
                frame = next(work.picture.frames)
                work.frame, work.parts = frame, bands.parts(frame)
                self._notes(work, frame)
                images = bands.images(frame, work.parts)
                image.check_output(frame.array.shape[0], frame.array.shape[1], self._upscaler.scale)
            except GIVEN as e:
                self._bad(item, e)
                continue
            for array in images:
                waiting.append(work)
                yield array

    def _is_done(self, item: Item) -> bool:
        """Whether there is nothing to do. Raises OutputError for a file that may not be replaced."""
        if not item.listed or not os.path.lexists(item.target):
            return False
        if self._options.resume is not None:
            manifest = self._manifest(item)
            if manifest.done(item.source, item.target):
                return True
            if manifest.ours(item.target):
                return False
        if self._options.skip_existing:
            return True
        if not self._options.overwrite:
            raise OutputError(
                f"{item.target}: exists already; give --overwrite to replace it, --skip-existing to leave it"
            )
        return False

    def _manifest(self, item: Item) -> Manifest:
        folder = os.path.dirname(item.target) or "."
        assert self._options.resume is not None
        return self._manifests.setdefault(folder, Manifest(folder, self._options.resume))

    def _open(self, item: Item) -> _Work | None:
        """A picture for the stream; None where it was done here."""
        begin, limit = time.perf_counter(), self._options.memory_limit
        if limit is not None:
            rows = row_reader(item.source)
            if rows is not None and self._needs_strips(rows.shape[0], rows.shape[1], rows.shape[2] * rows.itemsize):
                with rows:
                    self._by_strips(item, rows)
                return None
        picture = open_picture(item.source, None if limit is not None else image.MAX_PIXELS)
        self.stats.reading += time.perf_counter() - begin
        work = _Work(item, picture)
        scale = self._upscaler.scale
        work.size = self._options.wish.of(picture.width, picture.height, scale)
        if picture.count > 1 or self._needs_strips(picture.height, picture.width, 4):
            self._frames(work)
            return None
        return work

    def _needs_strips(self, h: int, w: int, pixel: int) -> bool:
        return needs_strips(h, w, pixel, self._upscaler.scale, self._options, self._base)

    def _notes(self, work: _Work, frame: Frame) -> None:
        """What will be lost is said before the work; what cannot be held raises."""
        picture, item = work.picture, work.item
        lines = list(picture.notes)
        lines += writing.check(item.target, item.kind, frame, work.size, picture.count, picture.animated)
        lines += bands.mapped(bands.parts(frame))
        self._say(work, lines)

    def _say(self, work: _Work, lines: list[str]) -> None:
        kind = work.item.kind
        gray = work.frame is not None and work.frame.colors == 1
        _, dropped = metadata.carried(work.picture.meta, kind, gray)
        if "ICC profile" in dropped and work.frame is not None and work.frame.array.dtype == np.uint8 and not gray:
            dropped.remove("ICC profile")
            lines = [*lines, f"the ICC profile is applied: {kind} holds none, the result is sRGB"]
        if dropped and self._options.saving.metadata:
            lines = [*lines, f"{kind} does not hold all that the file says; dropped: {', '.join(dropped)}"]
        for line in dict.fromkeys(lines):
            self._progress.clear()
            self._note(work.item.source, line)

    def _write_one(self, work: _Work, frame: Frame) -> None:
        begin = time.perf_counter()
        assert work.frame is not None
        h, w = work.frame.array.shape[:2]
        size = self._options.wish.of(w, h, self._upscaler.scale)
        frame = resize.fitted(frame, size, self._upscaler.upscale)
        with self._sink(work, frame, frame.array.nbytes) as sink:
            self._put(sink, work, frame)
        self.stats.pixels += frame.array.shape[0] * frame.array.shape[1]
        self.stats.writing += time.perf_counter() - begin

    @contextmanager
    def _sink(self, work: _Work, frame: Frame, size: int) -> Iterator[writing.Sink]:
        """The target in the making; `frame` is of its kind."""
        picture, item, meta = work.picture, work.item, work.picture.meta
        if not self._options.saving.metadata:
            meta = Meta(icc=meta.icc, colour=meta.colour)
        w, h = work.size
        meta = metadata.resized(meta, w, h, w / picture.width, h / picture.height)
        kept, _ = metadata.carried(meta, item.kind, frame.colors == 1)
        with writing.whole_or_absent(item.target, self._before_rename(item)) as file:
            sink = writing.sink(
                file, item.kind, kept, self._options.saving, picture.count, picture.animated, picture.loop, size
            )
            try:
                yield sink
                sink.end()
            finally:
                sink.close()

    def _before_rename(self, item: Item) -> Callable[[str], None]:
        def check(temporary: str) -> None:
            if self._stopped:
                raise OutputError(f"{item.target}: interrupted")
            if self._options.resume is not None and item.listed:
                self._manifest(item).add(item.source, item.target, temporary)

        return check

    def _put(self, sink: writing.Sink, work: _Work, frame: Frame) -> None:
        array, seen = self._converted(work, frame.array, frame)
        sink.begin(seen, (array.shape[1], array.shape[0]))
        sink.rows(array)

    def _converted(self, work: _Work, array: np.ndarray, frame: Frame) -> tuple[np.ndarray, Frame]:
        """As the target's format holds it."""
        array, seen = writing.shown(array, frame, work.item.kind)
        icc = work.picture.meta.icc
        if icc and "ICC profile" not in metadata.HOLDS[work.item.kind] and icc[16:20] == b"RGB ":
            made = writing.convert_profile(array, seen, icc)
            array = array if made is None else made
        return array, seen

    def _frames(self, work: _Work) -> None:
        """All frames or pages of a file, one after the other; each by strips where memory asks for it."""
        picture, item = work.picture, work.item
        first = next(picture.frames)
        work.frame = first
        self._notes(work, first)
        total = picture.count * work.size[0] * work.size[1] * first.array.shape[2] * first.array.dtype.itemsize

        def make() -> None:
            with self._sink(work, first, total) as sink:
                for number, frame in enumerate(chain([first], picture.frames), 1):
                    self._one_of_many(sink, work, frame)
                    self._progress.part(item.source, number / picture.count)

        self._finish(item, make)

    def _one_of_many(self, sink: writing.Sink, work: _Work, frame: Frame) -> None:
        upscaler, made = self._upscaler, bands.parts(frame)
        h, w = frame.array.shape[:2]
        if self._needs_strips(h, w, frame.array.shape[2] * frame.array.dtype.itemsize):
            self._strip_frame(sink, work, frame, lambda a, b: frame.array[a:b], h, w, made)
            return
        image.check_output(h, w, upscaler.scale)
        results = [upscaler.upscale(x) for x in bands.images(frame, made)]
        size = self._options.wish.of(w, h, upscaler.scale)
        out = resize.fitted(bands.joined(frame, made, results), size, upscaler.upscale)
        self.stats.pixels += size[0] * size[1]
        self._put(sink, work, out)

    def _by_strips(self, item: Item, rows: Any) -> None:
        """A file that is read a few rows at a time."""
        h, w, _ = rows.shape
        size = self._options.wish.of(w, h, self._upscaler.scale)
        picture = rows.picture
        work = _Work(item, picture, size)
        first = guarded(item.source, lambda: rows.frame(0, min(h, 16)))
        work.frame = first
        self._notes(work, first)
        nbytes = size[0] * size[1] * first.array.shape[2] * first.array.dtype.itemsize

        def make() -> None:
            made = bands.parts(first)
            if any(part.range is not None for part in made):
                raise LimitError(
                    f"{item.source}: a {first.what} image is taken by the range of all its samples, which strips do not know: "
                    "give more --memory-limit"
                )
            with self._sink(work, first, nbytes) as sink:
                read = lambda a, b: guarded(item.source, lambda: rows.frame(a, b).array)  # noqa: E731
                self._strip_frame(sink, work, first, read, h, w, made)

        self._finish(item, make)

    def _strip_frame(
        self,
        sink: writing.Sink,
        work: _Work,
        frame: Frame,
        read: strips.Rows,
        h: int,
        w: int,
        made: list[bands.Part],
    ) -> None:
        upscaler, limit = self._upscaler, self._options.memory_limit or 1 << 40
        scale = upscaler.scale
        around = strips.halo(upscaler.info()["radius"], frame.alpha)
        row = w * frame.array.shape[2] * frame.array.dtype.itemsize
        room = limit - self._base - strips.engine_share(limit, self._base)
        each = strips.per_strip(room, row, scale, around)

        def upscale(array: np.ndarray) -> np.ndarray:
            strip = replace(frame, array=array)
            results = [upscaler.upscale(x) for x in bands.images(strip, made)]
            return bands.joined(strip, made, results).array

        sink_begun = False
        done = 0
        for array in strips.enlarged(upscale, read, h, each, around):
            array, seen = self._converted(work, array, frame)
            if not sink_begun:
                sink.begin(seen, (w * scale, h * scale))
                sink_begun = True
            sink.rows(array)
            done += len(array)
            self.stats.pixels += array.shape[0] * array.shape[1]
            self._progress.part(work.item.source, done / (h * scale))


def needs_strips(h: int, w: int, pixel: int, scale: int, options: Options, base: int) -> bool:
    """Whether a picture with `pixel` bytes a pixel goes by strips. Exact sizes do not: they need all of the result."""
    limit = options.memory_limit
    if limit is None or options.wish.any:
        return False
    whole = strips.needed(base, h * w * pixel, scale, strips.engine_share(limit, base))
    return whole > limit or h * w * scale**2 > image.MAX_OUTPUT


def plan(item_source: str, upscaler: Upscaler, options: Options, base: int) -> dict[str, Any]:
    """What a file would take, before it runs: sizes, memory, time. See `fastsr plan`."""
    rows = row_reader(item_source)
    picture = rows.picture if rows is not None else open_picture(item_source, None)
    w, h, scale = picture.width, picture.height, upscaler.scale
    if rows is not None:
        bands_, itemsize = rows.shape[2], rows.itemsize
        rows.close()
    else:
        array = next(picture.frames).array
        bands_, itemsize = array.shape[2], array.dtype.itemsize
    size = options.wish.of(w, h, scale)
    given = h * w * bands_ * itemsize
    engine = upscaler.memory(h, w)
    whole = strips.needed(base, given, scale, engine)
    limit, by_strips = options.memory_limit, needs_strips(h, w, bands_ * itemsize, scale, options, base)
    side = min(256, h), min(256, w)
    sample = np.zeros((*side, 3), np.uint8)
    upscaler.upscale(sample)
    begin = time.perf_counter()
    upscaler.upscale(sample)
    per_pixel = (time.perf_counter() - begin) / (side[0] * side[1])
    passes = resize.passes(w, h, size, scale) if options.wish.any else 1
    cost = sum(scale ** (2 * i) for i in range(passes))
    return {
        "input": item_source,
        "format": picture.kind,
        "size": [w, h],
        "frames": picture.count,
        "result": list(size),
        "memory_bytes": min(whole, limit) if by_strips and limit is not None else whole,
        "strips": bool(by_strips),
        "seconds": round(per_pixel * w * h * cost * picture.count, 3),
    }
