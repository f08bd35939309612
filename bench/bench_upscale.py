# SPDX-License-Identifier: Apache-2.0
"""What `upscale` costs beside its network: a uint8 RGB frame, the two in turns in one process.

python bench/bench_upscale.py [MODEL ...]        target: at most 1.12 times the network alone at 640x360 on 2 threads
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastsr
from fastsr import _core
from fastsr.benchmark import photo

MODELS = ("annet_x3", "srcnn_915_x3")


def measure(model: str, height: int = 360, width: int = 640, threads: int = 2, seconds: float = 6) -> dict[str, float]:
    """Medians in ms of `upscale` and of the network alone, and their ratio; first, that they agree."""
    net = fastsr.load(model, device="cpu", threads=threads)
    img = (photo(height, width, 3).transpose(1, 2, 0) * 255).astype(np.uint8)
    given, out = _core.Pixels(img), np.empty((height * net.scale, width * net.scale, 3), np.uint8)
    planes = _core.read_pixels(given, net.domain)
    assert _core.write_pixels(net.run(planes), given, _core.Pixels(out), net.domain, net.scale)
    assert np.array_equal(net.upscale(img), out)
    times: dict[str, list[float]] = {"upscale": [], "network": []}
    ways: list[tuple[str, Callable[[], object]]] = [
        ("upscale", lambda: net.upscale(img)),
        ("network", lambda: net.run(planes)),
    ]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, way in ways:
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    upscale, network = (1e3 * statistics.median(times[name]) for name, _ in ways)
    return {"upscale_ms": upscale, "network_ms": network, "ratio": upscale / network}


@pytest.mark.parametrize("model", MODELS)
def test_upscale(benchmark: Any, model: str) -> None:
    if model not in [info.name for info in fastsr.models()]:
        pytest.skip(f"{model} is not among the shipped weights")
    found = measure(model)
    net, img = fastsr.load(model, device="cpu", threads=2), np.zeros((360, 640, 3), np.uint8)
    benchmark.pedantic(net.upscale, args=(img,), rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(found, checked=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        row = measure(name)
        print(
            f"{name:16} upscale {row['upscale_ms']:8.1f} ms  network {row['network_ms']:8.1f} ms  {row['ratio']:.3f} times"
        )
