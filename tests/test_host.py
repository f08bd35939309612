# SPDX-License-Identifier: Apache-2.0
"""The engine of the CPU: a stream's images overlap, runs can be stopped, copies are loaded anew."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsr
from fastsr import _core, executors, modelfile
from fastsr.executors.cpu import PreparedCpu
from fastsr.testing import rng

Write = Callable[..., Path]


def frames(count: int) -> list[np.ndarray]:
    return [rng(i).integers(0, 256, (4, 5), dtype=np.uint8) for i in range(count)]


def test_the_cpu_reads_while_the_network_runs(small_model: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    net, read = fastsr.load(small_model(), device="cpu"), threading.Event()
    upscale = PreparedCpu.upscale

    def slow(*given: Any) -> bool:
        assert read.wait(10), "the second image is not read before the first is done"
        return upscale(*given)

    def source() -> Iterator[Any]:
        first, second = frames(2)
        yield first
        read.set()
        yield second

    expected = [net.upscale(img) for img in frames(2)]
    monkeypatch.setattr(PreparedCpu, "upscale", slow)
    for out, one in zip(net.stream(source()), expected, strict=True):
        assert np.array_equal(out, one)


def test_an_early_end_on_the_cpu_stops_the_run(small_model: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    net = fastsr.load(small_model(), device="cpu")
    begun, stopped = threading.Event(), threading.Event()
    upscale, first = PreparedCpu.upscale, iter([True])

    def endless(self: Any, given: Any, out: Any, progress: Any = None) -> bool:
        if next(first, False):
            return upscale(self, given, out, progress)
        begun.set()
        try:
            while True:
                progress(0.5)
        finally:
            stopped.set()

    monkeypatch.setattr(PreparedCpu, "upscale", endless)
    running = net.stream(frames(9))
    next(running)
    assert begun.wait(10)
    running.close()
    assert stopped.wait(10)
    monkeypatch.undo()
    assert len(list(net.stream(frames(3)))) == 3


def test_what_progress_raises_stops_a_run(small_model: Write) -> None:
    """As a KeyboardInterrupt does; the network works afterwards."""
    model = modelfile.read(small_model())
    network = executors.get("cpu").prepare(model.plan, model.weights, threads=2, tile=16)
    img, said = np.zeros((600, 800, 3), np.uint8), []

    def progress(done: float) -> None:
        said.append(done)
        raise KeyboardInterrupt

    out = np.empty((1200, 1600, 3), np.uint8)
    given, made = _core.Pixels(img), _core.Pixels(out)
    for _ in range(50):  # a run that is done within 50 ms is not asked
        try:
            network.upscale(given, made, progress)  # type: ignore[attr-defined]
        except KeyboardInterrupt:
            break
    assert all(0 <= done <= 1 for done in said)
    assert network.upscale(given, made)  # type: ignore[attr-defined]


def test_pixels_and_planes_are_one_run(small_model: Write) -> None:
    """What the session reads and writes band by band is what whole planes give."""
    for domain in ("y", "rgb"):
        for options in ({}, {"tile": 16}, {"threads": 3}):
            net = fastsr.load(small_model(domain=domain), device="cpu", **options)
            for shape, dtype in (((61, 47, 3), "u1"), ((40, 90), "u1"), ((33, 70, 4), "<u2"), ((33, 70, 2), ">f4")):
                a = rng(1).random(shape) * {"u1": 255, "u2": 65535, "f4": 1}[dtype[-2:]]
                img, out = a.astype(dtype), np.empty((2 * shape[0], 2 * shape[1], *shape[2:]), dtype)
                given = _core.Pixels(img)
                planes = net.run(_core.read_pixels(given, domain))
                assert _core.write_pixels(planes, given, _core.Pixels(out), domain, 2)
                assert np.array_equal(net.upscale(img), out)


def test_yuv_through_a_session(small_model: Write) -> None:
    model = modelfile.read(small_model())
    session = _core.Session(model.plan.to_dict(), model.weights, threads=2, tile=16)
    planes = [rng(0).integers(0, 256, shape, dtype=np.uint8) for shape in ((50, 71), (25, 36, 2))]
    made, whole = ([np.zeros(shape, np.uint8) for shape in ((100, 142), (50, 71, 2))] for _ in range(2))
    given = _core.Pixels.yuv("nv12", planes)
    assert session.upscale(given, _core.Pixels.yuv("nv12", made))
    out = session.run(_core.read_pixels(given, "y"))
    assert _core.write_pixels(out, given, _core.Pixels.yuv("nv12", whole), "y", 2)
    for a, b in zip(made, whole, strict=True):
        assert np.array_equal(a, b)


def test_copies_and_pickles_are_loaded_anew(small_model: Write) -> None:
    net, img = fastsr.load(small_model(), device="cpu", threads=1, self_ensemble=True), frames(1)[0]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(other.upscale(img), net.upscale(img))
        assert other.info() == net.info()
