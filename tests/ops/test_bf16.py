# SPDX-License-Identifier: Apache-2.0
"""Precision bf16: products of bfloat16 summed in fp32, near float64, and exact tiling as in fp32."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastsr import _core, load
from fastsr.errors import DeviceError
from fastsr.plan import Plan
from fastsr.testing import conv_weights, halves, rng, run_in_halves, step

NEAR = 0.03
"""root mean square of the error over that of the output; bfloat16 has 0.002, F(4, 3) about ten times it"""


@pytest.mark.parametrize(("ci", "co"), [(16, 16), (64, 128), (50, 70), (128, 40), (97, 33)])
def test_wide_convolutions(ci: int, co: int) -> None:
    shapes = [(ci, 3, 1), (co, ci, 3), (ci, co, 1), (co, ci, 3), (3, co, 1)]
    weights = conv_weights(shapes, ci)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}),
        step("conv2d", ("a",), "b", {"w": "w1", "b": "b1"}, activation="relu"),
        step("conv2d", ("b", "a"), "c", {"w": "w2", "b": "b2"}, input_activation="leaky_relu", slope=0.1),
        step("conv2d", ("c", "b"), "d", {"w": "w3", "b": "b3"}, sum_inside=True, activation="relu"),
        step("conv2d", ("d", "lr"), "out", {"w": "w4", "b": "b4"}),
    ]
    for x in (rng(1).random((3, 37, 53), dtype=np.float32), rng(2).random((3, 5, 1), dtype=np.float32)):
        for error in run_in_halves(x, 1, steps, weights):
            assert error <= NEAR


@pytest.mark.parametrize("widths", [(32, 48, 16), (31, 32, 17), (16, 5, 44), (64, 64, 64)])
def test_joined_inputs_and_curves(widths: tuple[int, int, int]) -> None:
    """Values of an odd number of channels are not kept as pairs where others follow them; all agree on what pairs are."""
    a, b, c = widths
    shapes = [(a, 3, 1), (b, a, 3), (c, a + b, 3), (b, a + b + c, 1), (a, b + a + c, 3), (3, a, 1)]
    weights = conv_weights(shapes, a)
    weights["slopes"] = rng(a).random(c, dtype=np.float32)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}),
        step("conv2d", ("a",), "b", {"w": "w1", "b": "b1"}, activation="silu"),
        step("conv2d", ("a", "b"), "c", {"w": "w2", "slopes": "slopes"}, join=2, activation="leaky_relu"),
        step("conv2d", ("a", "b", "c", "b"), "d", {"w": "w3", "b": "b3"}, join=3, gate=True),
        step("conv2d", ("d", "a", "c", "a"), "e", {"w": "w4"}, join=3, sum_inside=True, activation="tanh"),
        step("conv2d", ("e", "lr"), "out", {"w": "w5"}),
    ]
    for x in (rng(1).random((3, 37, 53), dtype=np.float32), rng(2).random((3, 5, 1), dtype=np.float32)):
        for error in run_in_halves(x, 1, steps, weights):
            assert error <= NEAR


def test_what_is_not_wide_stays_fp32() -> None:
    weights = conv_weights([(12, 1, 5), (1, 12, 3)], 0)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}, border="symmetric", activation="relu"),
        step("conv2d", ("a",), "out", {"w": "w1", "b": "b1"}, border="symmetric"),
    ]
    x = rng(1).random((1, 20, 30), dtype=np.float32)
    for isa in halves():
        half, full = (
            _core.Session(Plan("y", 1, tuple(steps)).to_dict(), weights, isa=isa, bf16=b) for b in (True, False)
        )
        assert half.run(x).tobytes() == full.run(x).tobytes()
        assert not any(" bf16" in row["who"] for row in half.explain(20, 30))


def test_a_shipped_model_is_near_its_fp32() -> None:
    if not halves():
        pytest.skip("no AVX-512-BF16 here")
    x = rng(0).random((24, 31, 3), dtype=np.float32)
    x = (x + np.roll(x, 1, 0) + np.roll(x, 1, 1)) / 3
    full, half = load("btsrn_x3"), load("btsrn_x3", precision="bf16")
    assert (full.info()["precision"], half.info()["precision"]) == ("fp32", "bf16")
    assert any(" bf16" in row["who"] for row in half.explain(24, 31))
    error = np.square(np.asarray(full.upscale(x)) - np.asarray(half.upscale(x))).mean()
    assert -10 * math.log10(error) >= 60


def test_a_cpu_without_bf16_says_so() -> None:
    weights = conv_weights([(1, 1, 3)], 0)
    plan = Plan("y", 1, (step("conv2d", ("lr",), "out", {"w": "w0"}),)).to_dict()
    with pytest.raises(
        DeviceError, match="precision 'bf16' needs a CPU with AVX-512-BF16 or AMX; this run has baseline"
    ):
        _core.Session(plan, weights, isa="baseline", bf16=True)
