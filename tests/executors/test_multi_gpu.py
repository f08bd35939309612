# SPDX-License-Identifier: Apache-2.0
"""MultiGpu GPUs: who takes which image, part of a batch or turn of a self-ensemble; which devices there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr import DeviceError, Upscaler, executors, load, modelfile  # noqa: E402
from fastsr.engine import Job  # noqa: E402
from fastsr.executors import devices  # noqa: E402
from fastsr.gpu.multi_gpu import MultiGpu  # noqa: E402
from fastsr.testing import rng  # noqa: E402


class Member:
    """A GPU of the interpreter that doubles, and says what it was given."""

    isa, radius = "interpreter", 0

    def __init__(self, name: str, said: list[tuple[str, int]]) -> None:
        self.name, self.said, self.device = name, said, torch.device("cpu")

    def run_tensor(self, x: Any) -> Any:
        self.said.append((self.name, len(x)))
        big = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return big * torch.linspace(0.5, 1, big.shape[-1])  # turns are not all the same

    def run(self, x: np.ndarray) -> np.ndarray:
        out: np.ndarray = self.run_tensor(torch.from_numpy(x)[None])[0].numpy()
        return out

    def tune(self, n: int, h: int, w: int) -> list[dict[str, Any]]:
        return [{"who": self.name}]


@pytest.fixture
def made(small_model: Callable[..., Path], device: Any) -> Callable[..., tuple[Upscaler, list[tuple[str, int]]]]:
    """Upscalers of so many members, and what these say."""
    if device.type == "cuda":
        pytest.skip("members stand in for GPUs")
    model = modelfile.read(small_model())

    def make(count: int, self_ensemble: bool = False) -> tuple[Upscaler, list[tuple[str, int]]]:
        said: list[tuple[str, int]] = []
        members: Any = [Member("abc"[i], said) for i in range(count)]
        options = {"threads": 1, "precision": "fp32", "self_ensemble": self_ensemble}
        job = Job(model.name, "y", 2, self_ensemble, 1)
        engine = MultiGpu(members).engine(job)
        return Upscaler(model, "triton", engine, options, partial(make, count, self_ensemble)), said  # type: ignore[arg-type]

    return make


def test_a_batch_is_divided(made: Any) -> None:
    (one, _), (two, said) = made(1), made(2)
    x = torch.from_numpy(rng(0).random((5, 1, 2, 3), np.float32))
    assert torch.equal(two.upscale(x), one.upscale(x))
    assert said == [("a", 3), ("b", 2)]
    said.clear()
    assert torch.equal(two.upscale(x[:1]), one.upscale(x[:1]))
    assert torch.equal(two.upscale(x[0].half()), one.upscale(x[0].half()))
    assert said == [("a", 1), ("a", 1)]
    three, said = made(3)
    assert torch.equal(three.upscale(x[:2]), one.upscale(x[:2]))
    assert said == [("a", 1), ("b", 1)]
    x[4] = 9
    with pytest.raises(Exception, match="goes from"):
        two.upscale(x)


def test_a_stream_goes_round(made: Any) -> None:
    (one, _), (two, said) = made(1), made(2)
    images = [rng(i).integers(0, 256, (2, 3), dtype=np.uint8) for i in range(5)]
    for img, out in zip(images, two.stream(images), strict=True):
        assert np.array_equal(out, one.upscale(img))
    assert [name for name, _ in said] == list("ababa")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_turns_of_a_self_ensemble_are_divided(made: Any, count: int) -> None:
    (one, _), (several, said) = made(1, True), made(count, True)
    img = rng(0).random((3, 4), np.float32)
    assert np.array_equal(several.upscale(img), one.upscale(img))
    assert [sum(name == who for name, _ in said) for who in "abc"[:count]] == [[8], [4, 4], [3, 3, 2]][count - 1]
    plane = img[None]
    assert np.array_equal(several.run(plane), one.run(plane))
    # A batch's images are divided, not their turns.
    said.clear()
    x = torch.from_numpy(rng(0).random((4, 1, 2, 3), np.float32))
    assert torch.equal(several.upscale(x), one.upscale(x))
    assert len(said) == 8 * count


def test_the_mean_over_turns_is_that_of_the_cpu(small_model: Callable[..., Path], device: Any) -> None:
    path, x = small_model(), rng(0).random((1, 4, 5), np.float32)
    here, there = load(path, device="cpu", self_ensemble=True), load(path, executor="triton", self_ensemble=True)
    assert np.abs(there.run(x) - here.run(x)).max() < 1e-5


def test_what_is_asked_of_all(made: Any) -> None:
    two, _ = made(2)
    assert two.info()["isa"] == "2 x interpreter"
    assert two.tune(4, 4) == [{"who": "a"}, {"who": "b"}]


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0) if index < 2 else (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "T4")
    for device, names in (
        ("cuda", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0,1", ["cuda:0", "cuda:1"]),
        ("cuda:all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cpu", ["cpu"]),
    ):
        assert devices.each(device) == names
    assert devices.missing("cuda:1,0") is None
    assert devices.missing("cuda:0,3") == "there are 3 GPUs, numbered from 0"
    assert devices.missing("cuda:1,01") == "names GPU 1 twice"
    assert devices.missing("cuda:all") == "T4 has compute capability 7.5, 8.0 is needed"
    assert executors.choose("cuda:0,1", "auto")[1] == {"device": "cuda:0,1"}
    for device in ("cuda:", "cuda:0,", "cuda:*", "cuda:0,all"):
        with pytest.raises(DeviceError, match="is not one of auto, cpu, cuda, cuda:1, cuda:0,1, cuda:all"):
            executors.choose(device, "auto")
