# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: ../shared where it is at hand, small model files, one Hypothesis profile."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

# Triton asks when it is imported: without a GPU its kernels are interpreted, with one compiled.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Callable, Generator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from fastsr import modelfile
from fastsr.executors import devices
from fastsr.plan import Plan, Step
from fastsr.testing import script

settings.register_profile(
    "fastsr", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fastsr")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--graphs-minutes", default=0, type=float, help="run random graphs of a new seed for so long, 0: the short run"
    )


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Any:
    """What GPU code runs on, a torch device: Triton's interpreter on the CPU, and a GPU (`pytest -m gpu`) where there is one.

    One process either interprets kernels or compiles them.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if request.param == "cuda":
        if devices.interpreted() or devices.missing("cuda"):
            pytest.skip("no NVIDIA GPU")
        return torch.device("cuda")
    if not devices.interpreted():
        pytest.skip("kernels are compiled in this process: TRITON_INTERPRET=1 interprets them")
    _interpreter().install()
    return torch.device("cpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """A kernel that faults spoils CUDA for its process: xdist's worker ends, and another runs the tests that are left."""
    done = yield
    torch = sys.modules.get("torch")
    if (
        item.get_closest_marker("gpu")
        and torch
        and os.environ.get("PYTEST_XDIST_WORKER")
        and torch.cuda.is_initialized()
    ):
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)
    return done


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """bench/gpu.sh wants failures as they come: its time may end before pytest's summary."""
    path = os.environ.get("FASTSR_FAULTS")
    if path and report.failed and not os.environ.get("PYTEST_XDIST_WORKER"):
        with open(path, "a") as file:
            file.write(f"==== {report.nodeid} {report.when}\n{report.longreprtext[-20000:]}\n\n")


@lru_cache
def _interpreter() -> ModuleType:
    """tests/interpreter.py; tests are no package."""
    return script(Path(__file__).parent / "interpreter.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of research data beside the repository; tests that need it skip without."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    return SHARED


@pytest.fixture
def small_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small model file (bicubic, then two convolutions) and returns its path."""

    def write(name: str = "small", domain: str = "y", scale: int = 2) -> Path:
        random = np.random.default_rng(5)
        c = 1 if domain == "y" else 3
        weights = {
            "w0": (random.standard_normal((8, c, 3, 3)) / 5).astype(np.float32),
            "w1": (random.standard_normal((c, 8, 3, 3)) / 50).astype(np.float32),
        }
        plan = Plan(
            domain,
            scale,
            (
                Step("resize_bicubic", ("lr",), "b", {}, {"scale": scale}),
                Step("conv2d", ("b",), "m", {"w": "w0"}, {"border": "symmetric", "activation": "relu"}),
                Step("conv2d", ("m", "b"), "out", {"w": "w1"}, {"border": "symmetric"}),
            ),
        )
        path = tmp_path / f"{name}.safetensors"
        modelfile.write(
            path, plan, weights, name=name, arch="test", config={}, licence="Apache-2.0", recipe={"seed": 5}, psnr={}
        )
        return path

    return write
