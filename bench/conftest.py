# SPDX-License-Identifier: Apache-2.0
"""`pytest bench --benchmark-only`: op by op and model by model, every engine, small frames by default.

FASTSR_BENCH_FULL=1 takes 640x360 frames, every scale and every compiled peer. A benchmark that has not compared its
result fails. Engines here run one after the other; `bench/report.py --measure` lets them take turns, and is what the
README's tables are made of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastsr import _core, benchmark, doctor
from fastsr.benchmark import cases, engines
from fastsr.errors import DeviceError

FULL = os.environ.get("FASTSR_BENCH_FULL") == "1"
FRAME = (640, 360) if FULL else (160, 90)
THREADS = int(os.environ.get("FASTSR_THREADS", "0")) or _core.default_threads()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["fastsr"] = doctor.examine() | {"peak_gflops": _core.peak_gflops(THREADS, 0.2), "frame": FRAME}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "benchmark" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid}: every test in bench/ times something")


@pytest.fixture(autouse=True)
def checked_results(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a benchmark that has not compared what it timed."""
    timer = request.getfixturevalue("benchmark")
    yield
    if not timer.extra_info.get("checked"):
        pytest.fail("this benchmark compared no result: set benchmark.extra_info['checked'] after comparing")


@pytest.fixture
def time_case(benchmark: Any) -> Callable[[cases.Case, str], None]:
    """Compare an engine with fastsr on a case, then time it, between two probes of the FMA peak."""
    # `benchmark` is pytest-benchmark's fixture here, not our package.
    timer = benchmark
    return lambda case, engine: _time_case(timer, case, engine)


def _time_case(timer: Any, case: cases.Case, engine: str) -> None:
    timer.extra_info["checked"] = "skipped"
    if engine not in engines.available():
        pytest.skip(f"engine {engine} is not installed")
    if "compile" in engine and not FULL and not case.name.endswith("x3") and "conv2d" not in case.name:
        pytest.skip("compiled peers of the other scales: FASTSR_BENCH_FULL=1")
    width, height = case.size(*FRAME)
    x = benchmark.photo(height, width, case.plan.channels)
    with engines.torch_threads(THREADS):
        expected = engines.prepare("fastsr", case.plan, case.weights, THREADS)(x)
        try:
            run = engines.prepare(engine, case.plan, case.weights, THREADS)
            benchmark.compare(run(x), expected, engine)
        except DeviceError as e:  # an op or a border that it does not have
            pytest.skip(str(e))
        timer.group = f"{case.name} {width}x{height}"
        timer.extra_info |= {
            "checked": True,
            "what": case.name,
            "engine": engine,
            "size": f"{width}x{height}",
            "threads": THREADS,
            "gflop": _core.Session(case.plan.to_dict(), case.weights, threads=THREADS).flops(height, width) / 1e9,
            "peak_gflops_before": _core.peak_gflops(THREADS, 0.05),
        }
        timer.pedantic(run, args=(x,), rounds=3 if engine == "torch" else 5)
        timer.extra_info["peak_gflops_after"] = _core.peak_gflops(THREADS, 0.05)
