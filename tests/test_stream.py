# SPDX-License-Identifier: Apache-2.0
"""Streams of images: order, kinds, errors in their turn, buffers and streams; on the CPU, on a GPU and on two."""

from __future__ import annotations

import concurrent.futures.thread
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")  # without it tests/test_host.py has what the CPU does
pytest.importorskip("triton")

import fastsr
from fastsr import FastsrError, InputError, LimitError, ModelError, Upscaler, executors, modelfile
from fastsr.engine import Job
from fastsr.gpu import stream
from fastsr.gpu.multi_gpu import MultiGpu
from fastsr.plan import Plan, Step
from fastsr.testing import rng

Write = Callable[..., Path]


@pytest.fixture
def small_model(tmp_path: Path) -> Write:
    """Bicubic x2 and then a little more or less: what is tested is the way there and back, in seconds."""

    def write(domain: str = "y") -> Path:
        path = tmp_path / f"{domain}.safetensors"
        shift = np.array([0.01] if domain == "y" else [0.01, 0, -0.01], np.float32)
        steps = (
            Step("resize_bicubic", ("lr",), "b", {}, {"scale": 2}),
            Step("scale_shift", ("b",), "out", {"shift": "s"}),
        )
        about: dict[str, Any] = {
            "name": "small",
            "arch": "test",
            "licence": "x",
            "config": {},
            "recipe": {},
            "psnr": {},
        }
        modelfile.write(path, Plan(domain, 2, steps), {"s": shift}, **about)
        return path

    return write


def on_two(path: Path, device: Any, **options: Any) -> Upscaler:
    """As load(device="cuda:0,1") makes it, both being `device`."""
    model, executor = modelfile.read(path), executors.get("triton")
    members: Any = [executor.prepare(model.plan, model.weights, device=str(device)) for _ in range(2)]  # type: ignore[call-arg]
    given = {"threads": 1, "precision": "fp32", "self_ensemble": False, **options}
    job = Job(model.name, model.plan.domain, model.plan.scale, given["self_ensemble"], 1)
    return Upscaler(model, "triton", MultiGpu(members).engine(job), given, partial(on_two, path, device))


def line_of(net: Upscaler) -> Any:
    """The only GPU's."""
    (line,) = net._engine.gpus  # type: ignore[attr-defined]
    return line


@pytest.fixture
def gpu(device: Any, small_model: Write) -> Upscaler:
    return fastsr.load(small_model(), executor="triton")


@pytest.fixture(params=["cpu", "one", "two"])
def net(request: pytest.FixtureRequest, small_model: Write) -> Upscaler:
    if request.param == "cpu":
        return fastsr.load(small_model(), device="cpu")
    if not executors.devices.interpreted():
        pytest.skip("kernels are compiled in this process")
    return fastsr.load(small_model(), executor="triton") if request.param == "one" else on_two(small_model(), "cpu")


def frames(count: int, *shape: int) -> list[np.ndarray]:
    return [rng(i).integers(0, 256, shape or (4, 5), dtype=np.uint8) for i in range(count)]


def kinds() -> list[Any]:
    """An image of every kind that is laid out differently."""
    deep = rng(1).integers(0, 65536, (4, 3), dtype=np.uint16)
    floats = rng(2).random((3, 6, 3), dtype=np.float32)
    a = rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    return [
        *(Image.fromarray(a).convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "P")),
        *(Image.fromarray(deep), Image.fromarray(floats[:, :, 0])),
        *(deep, deep.astype(">u2"), a[:, :, 0], a[:, :, :1], a[::-1, ::2, 2::-1], floats, floats.astype(">f4")),
    ]


def same(a: Any, b: Any) -> bool:
    assert type(a) is type(b)
    if isinstance(a, Image.Image):
        assert (a.mode, a.info) == (b.mode, b.info)
    else:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


# --- what everyone does -------------------------------------------------------------------------------------------------


def test_results_are_those_of_upscale_in_order(net: Upscaler) -> None:
    images = kinds()[::2]
    found = list(net.stream(iter(images)))
    assert len(found) == len(images)
    for img, out in zip(images, found, strict=True):
        assert same(out, net.upscale(img))
    assert list(net.stream([])) == []


def test_a_bad_image_raises_in_its_turn(net: Upscaler) -> None:
    good, bad = frames(6), np.full((4, 5), np.nan, np.float32)
    for wrong in (bad, np.zeros((0, 4), np.uint8), "photo.png"):
        running = net.stream([*good[:4], wrong, *good[4:]])
        for img in good[:4]:
            assert same(next(running), net.upscale(img))
        with pytest.raises(InputError):
            next(running)
        assert list(running) == []


def test_bad_images_in_the_place_of_their_results(net: Upscaler) -> None:
    good, bad = frames(3), np.full((4, 5), np.nan, np.float32)
    found = list(net.stream([bad, good[0], "photo.png", bad, good[1], good[2], bad], return_exceptions=True))
    assert [isinstance(out, InputError) for out in found] == [True, False, True, True, False, False, True]
    assert [str(found[i]) for i in (0, 2)] == [
        "the image holds nan at index (0, 0): replace NaN and infinity first",
        "cannot upscale a str: open it with PIL first",
    ]
    for out, img in zip((found[1], found[4], found[5]), good, strict=True):
        assert same(out, net.upscale(img))


@pytest.mark.parametrize("keep", [False, True])
def test_what_the_iterable_raises_comes_in_its_turn(net: Upscaler, keep: bool) -> None:
    def source() -> Iterator[Any]:
        yield from frames(4)
        raise FastsrError("the camera is gone")

    running = net.stream(source(), return_exceptions=keep)
    assert len(list(itertools.islice(running, 4))) == 4
    with pytest.raises(FastsrError, match="camera"):
        next(running)


def test_a_frame_may_be_written_again(net: Upscaler) -> None:
    """As decoders do that have one frame for all: when the next is asked for, the last is no more."""
    images, one = frames(5), np.empty((4, 5), np.uint8)

    def source() -> Iterator[Any]:
        for img in images:
            one[:] = img
            yield one
            one[:] = 0

    for img, out in zip(images, net.stream(source()), strict=True):
        assert same(out, net.upscale(img))


def test_an_end_takes_none_of_threadings_locks(net: Upscaler) -> None:
    """The garbage collector closes a stream that was left, in a thread that may hold them."""
    running = net.stream(frames(9))
    next(running)
    ends = threading.Thread(target=running.close, daemon=True)
    with concurrent.futures.thread._global_shutdown_lock:
        ends.start()
        ends.join(10)
        assert not ends.is_alive()


def test_an_early_end(net: Upscaler) -> None:
    taken: list[int] = []

    def source() -> Iterator[Any]:
        for i, img in enumerate(frames(20)):
            taken.append(i)
            yield img

    running = net.stream(source())
    next(running)
    running.close()
    assert list(running) == []
    assert len(taken) == net._engine.queue().ahead


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"not one of shape \(4, 4, 3\): give a list"),
        (Image.new("RGB", (4, 4)), "not a Image"),
        (5, "takes an iterable of images, not a int"),
    ],
)
def test_one_image_is_no_stream(net: Upscaler, images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        net.stream(images)
    assert len(list(net.stream(np.zeros((2, 4, 4, 3), np.uint8)))) == 2


# --- on a GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_a_gpu_gives_the_pixels_of_the_cpu(device: Any, small_model: Write, domain: str) -> None:
    path = small_model(domain=domain)
    there, here = fastsr.load(path, executor="triton"), fastsr.load(path, device="cpu")
    images = kinds()
    for out, img in zip(there.stream(images), images, strict=True):
        expected = here.upscale(img)
        same(out, expected)
        a, b = (np.asarray(i).astype(np.float64) for i in (out, expected))
        assert np.abs(a - b).max() <= (1e-5 if np.asarray(out).dtype.kind == "f" else 1)


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_two_give_the_pixels_of_one(device: Any, small_model: Write, self_ensemble: bool) -> None:
    """The streams of two GPUs, though both be one: copies between them wait for what they copy."""
    torch = pytest.importorskip("torch")
    path = small_model()
    one = fastsr.load(path, executor="triton", self_ensemble=self_ensemble)
    two = on_two(path, device, self_ensemble=self_ensemble)
    batch, images = torch.from_numpy(rng(0).random((3, 1, 2, 3), np.float32)).to(device), frames(4, 2, 3)
    assert torch.equal(two.upscale(batch), one.upscale(batch))
    assert same(two.upscale(images[0]), one.upscale(images[0]))
    for out, img in zip(two.stream(images), images, strict=True):
        assert same(out, one.upscale(img))


def test_tensors_among_images(device: Any, gpu: Upscaler) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rng(0).random((3, 2, 4, 5), np.float32))
    images = [x, x[0].to(device), frames(1)[0], x.half().to(device), x[:0], x.permute(0, 1, 3, 2).double()]
    for img, out in zip(images, gpu.stream(images), strict=True):
        if isinstance(img, np.ndarray):
            assert same(out, gpu.upscale(img))
            continue
        assert (out.dtype, out.device.type, out.ndim) == (img.dtype, img.device.type, img.ndim)
        assert torch.equal(out, gpu.upscale(img))
    bad = x.clone()
    bad[1, 1, 3, 0] = 7
    found = list(gpu.stream([bad, x], return_exceptions=True))
    assert "this one goes from" in str(found[0])
    assert torch.equal(found[1], gpu.upscale(x))


def test_tensors_of_the_host_go_through_pinned_memory(
    device: Any, gpu: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rng(0).random((3, 2, 4, 5), np.float32))
    images = [x, x[0], x.half(), x.permute(0, 1, 3, 2).double()]
    expected = [gpu.upscale(img.to(device)).cpu() for img in images]
    monkeypatch.setattr(stream.GpuStreams, "far", lambda self, x: x.device.type == "cpu")
    for got in ([gpu.upscale(img) for img in images], list(gpu.stream(images))):
        for out, img, one in zip(got, images, expected, strict=True):
            assert out.dtype == img.dtype
            assert torch.equal(out, one)
    bad = x.clone()
    bad[1, 1, 3, 0] = float("nan")
    with pytest.raises(InputError, match=r"nan at index \(1, 1, 3, 0\)"):
        gpu.upscale(bad)


def test_the_bad_value_is_named_though_the_frame_is_gone(gpu: Upscaler, device: Any) -> None:
    one = np.zeros((3, 4, 3), np.float32)

    def source() -> Iterator[Any]:
        one[1, 2, 0] = np.inf
        yield one
        one[:] = 0
        yield one

    with pytest.raises(InputError, match=r"inf at index \(1, 2, 0\)"):
        next(gpu.stream(source()))


def test_weights_that_explode_and_memory_that_is_short(
    device: Any, small_model: Write, gpu: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    member = type(line_of(gpu).prepared)
    images, run = frames(3), member.run_tensor

    def infinite(self: Any, x: Any) -> Any:
        return run(self, x) * float("inf")

    monkeypatch.setattr(member, "run_tensor", infinite)
    with pytest.raises(ModelError, match="'small' gave values that are not finite"):
        gpu.upscale(images[0])

    def short(self: Any, x: Any) -> Any:
        if x.shape[-1] > 5:
            raise torch.cuda.OutOfMemoryError
        return run(self, x)

    monkeypatch.setattr(member, "run_tensor", short)
    found = list(gpu.stream([images[0], frames(1, 4, 6)[0], *images[1:]], return_exceptions=True))
    assert [isinstance(out, LimitError) for out in found] == [False, True, False, False]
    assert same(found[2], gpu.upscale(images[1]))


def test_pinned_buffers_are_used_again(gpu: Upscaler, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = line_of(gpu)
    made: list[int] = []
    pinned = line.up.pinned

    def counted(size: int) -> Any:
        made.append(size)
        return pinned(size)

    monkeypatch.setattr(line.up, "pinned", counted)
    images = [*frames(6), *frames(6, 3, 2), *frames(2, 6, 6)]
    assert len(list(gpu.stream(images))) == 14
    # A pair a slot, and once more where a larger image comes.
    assert sorted(size for size in made if size)[: stream.IN_FLIGHT] == 3 * [20]
    assert len([size for size in made if size]) == 2 * stream.IN_FLIGHT + 2 * 2


class Later(stream.NoStream):
    """A stream whose work is done at the last moment, or at once when nothing but its own marks can hold it."""

    def __init__(self, eager: bool, deaf: bool = False) -> None:
        self.eager, self.deaf = eager, deaf
        self.queue: list[tuple[Callable[[], None], Any]] = []
        self.done = 0

    def do(self, work: Callable[[], None], after: Any = None) -> Any:
        self.queue.append((work, None if self.deaf else after))
        mark = Point(self, len(self.queue))
        if self.eager:
            mark.synchronize()
        return mark


class Point:
    def __init__(self, stream: Later, count: int) -> None:
        self.stream, self.count = stream, count

    def synchronize(self) -> None:
        while self.stream.done < self.count:
            work, after = self.stream.queue[self.stream.done]
            self.stream.done += 1
            if after is not None:
                after.synchronize()
            work()


def with_lanes(net: Upscaler, up: bool, work: bool, down: bool, deaf: str = "") -> Any:
    line = line_of(net)
    line.up, line.work, line.down = (
        Later(eager, name == deaf) for name, eager in (("up", up), ("work", work), ("down", down))
    )
    return line


@pytest.mark.parametrize(
    "eager", [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]
)
def test_lanes_wait_for_each_other_and_for_nobody_else(
    gpu: Upscaler, device: Any, eager: tuple[bool, bool, bool]
) -> None:
    if device.type == "cuda":
        pytest.skip("a GPU has streams of its own")
    images = [*frames(5), *frames(2, 7, 6), *frames(1, 3, 3, 3)]
    expected = [gpu.upscale(img) for img in images]
    line = with_lanes(gpu, *eager)
    running = gpu.stream(images)
    first = next(running)
    if eager == (True, False, False):
        # Of the three on their way only the first was worked on: nothing waited for the others.
        assert (line.up.done, line.work.done, line.down.done) == (3, 1, 1)
    for out, one in zip([first, *running], expected, strict=True):
        assert same(out, one)


@pytest.mark.parametrize("deaf", ["work", "down"])
def test_a_lane_that_does_not_wait_is_noticed(gpu: Upscaler, device: Any, deaf: str) -> None:
    if device.type == "cuda":
        pytest.skip("a GPU has streams of its own")
    images = frames(4)
    expected = [gpu.upscale(img) for img in images]
    with_lanes(gpu, False, False, False, deaf)
    try:
        found = list(gpu.stream(images))
    except (IndexError, RuntimeError):  # buffers that do not exist yet
        return
    assert not all(same(out, one) for out, one in zip(found, expected, strict=True))


def test_an_early_end_waits_for_what_is_on_its_way(gpu: Upscaler, device: Any) -> None:
    if device.type == "cuda":
        pytest.skip("a GPU has streams of its own")
    line = with_lanes(gpu, False, False, False)
    running = gpu.stream(frames(9))
    next(running)
    running.close()
    assert line.down.done == len(line.down.queue) == stream.IN_FLIGHT


def test_a_cuda_stream_queues_behind_events(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    said: list[str] = []

    class Fake:
        def __init__(self, name: Any) -> None:
            self.name, self.device = name, "gpu"

        def wait_event(self, event: str) -> None:
            said.append(f"{self.name} waits for {event}")

        def record_event(self) -> str:
            said.append(f"{self.name} records")
            return f"mark of {self.name}"

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Fake("ours"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Fake("callers"))
    monkeypatch.setattr(torch.cuda, "stream", lambda s: said.append(f"on {s.name}") or nullcontext())
    ours = stream.CudaStream(torch.device("cuda:1"))
    event = ours.do(lambda: said.append("work"), after=ours.called())
    ours.hold(event)
    assert said == [
        "callers records",
        "on ours",
        "ours waits for mark of callers",
        "work",
        "ours records",
        "callers waits for mark of ours",
    ]
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "empty", lambda size, **how: asked.update(how, size=size))
    ours.pinned(7)
    assert asked == {"size": 7, "dtype": torch.uint8, "pin_memory": True}
