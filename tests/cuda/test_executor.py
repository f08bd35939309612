# SPDX-License-Identifier: Apache-2.0
"""Whole plans through the executor "cuda": the emulated CUDA kernels where they are, Triton's in the interpreter else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from fastsr import executors  # noqa: E402
from fastsr.executors import devices  # noqa: E402
from fastsr.gpu import tuning  # noqa: E402
from fastsr.kernels.cuda import runtime  # noqa: E402
from fastsr.kernels.cuda.compile import KernelError  # noqa: E402
from fastsr.plan import Plan  # noqa: E402
from fastsr.testing import anchored_weights, assert_matches, conv_weights, rng, step  # noqa: E402


@pytest.fixture(autouse=True)
def _interpreted() -> None:
    if not devices.interpreted():
        pytest.skip("a GPU is here: its tests say more")


def block() -> tuple[Plan, dict[str, np.ndarray]]:
    """A BTSRN of one block."""
    weights = conv_weights([(32, 3, 1), (16, 32, 1), (32, 16, 3), (3, 32, 1)], 1)
    roles = {"w1": "w1", "b1": "b1", "w3": "w2", "b3": "b2"}
    steps = (
        step("conv2d", ("lr",), "enter", {"w": "w0", "b": "b0"}),
        step("pconv_block", ("enter",), "block", roles),
        step("conv2d", ("block", "lr"), "out", {"w": "w3", "b": "b3"}, input_activation="relu"),
    )
    return Plan("rgb", 1, steps), weights


def anchored() -> tuple[Plan, dict[str, np.ndarray]]:
    roles = {role: role for role in ("filters", "atoms", "projections")}
    steps = (
        step("resize_bicubic", ("lr",), "bicubic", scale=2),
        step("anchored_regression", ("lr", "bicubic"), "out", roles, scale=2),
    )
    return Plan("y", 2, steps), anchored_weights(2, 9, 28, 64, 3)


def run(plan: Plan, weights: dict[str, np.ndarray], precision: str) -> tuple[Any, np.ndarray, np.ndarray]:
    x = rng(4).random((plan.channels, 9, 13), dtype=np.float32)
    prepared = executors.get("cuda").prepare(plan, weights, precision=precision, device="cpu")
    return prepared, prepared.run(x), executors.get("reference").prepare(plan, weights, precision="fp64").run(x)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_block_by_cuda_between_others_by_triton(emulation: Any, precision: str) -> None:
    prepared, out, expected = run(*block(), precision)
    assert [row["who"].split()[0] for row in prepared.explain(9, 13)] == ["triton", "cuda", "triton"]
    assert float(np.sqrt(np.square(out - expected).mean())) <= {"fp16": 0.002, "bf16": 0.015}[precision]


def test_the_executor_gpu_takes_the_faster_backend(emulation: Any, tmp_path: Path) -> None:
    plan, weights = block()
    made = executors.get("gpu").prepare(plan, weights, precision="fp16", device="cpu")
    made.choices = tuning.Choices(torch.device("cpu"), tmp_path / "tuning.json")  # type: ignore[attr-defined]
    stage = made.stages[1]  # type: ignore[attr-defined]
    assert [implementation.name for implementation in stage.implementations] == ["triton", "cuda"]
    assert made.explain(9, 13)[1]["who"] == "triton fp16"
    clock = iter(range(100, 0, -1))  # the later the faster
    rows = made.tune(1, 9, 13, measure=lambda launch: float(next(clock)))  # type: ignore[attr-defined]
    assert all(row["seconds"] for row in rows)
    assert made.explain(9, 13)[1]["who"] == "cuda fp16 tuned"
    x = rng(4).random((3, 9, 13), dtype=np.float32)
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    assert float(np.sqrt(np.square(made.run(x) - expected).mean())) <= 0.002


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_images_stay_fp32(emulation: Any, precision: str) -> None:
    prepared, out, expected = run(*anchored(), precision)
    assert [row["who"].split()[0] for row in prepared.explain(9, 13)] == ["triton", "cuda"]
    assert_matches(out, expected)


def test_what_cuda_declines_triton_does_and_explain_says_why(emulation: Any) -> None:
    prepared, out, expected = run(*block(), "fp32")
    row = prepared.explain(9, 13)[1]
    assert row["who"].startswith("triton fp32 (cuda: ")
    assert_matches(out, expected)


def test_a_kernel_that_cannot_be_loaded_is_done_without(emulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise KernelError("no cupy here")

    monkeypatch.setattr(runtime, "load", load)
    prepared, out, expected = run(*anchored(), "fp32")
    assert prepared.explain(9, 13)[1]["who"] == "triton fp32 (cuda: no cupy here)"
    assert_matches(out, expected)
