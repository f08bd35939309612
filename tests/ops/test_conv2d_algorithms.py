# SPDX-License-Identifier: Apache-2.0
"""The algorithms of a convolution: each is right, and the one that the kernel's estimate chooses is about the fastest."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from fastsr import _core, executors
from fastsr.errors import InputError
from fastsr.plan import Plan
from fastsr.testing import assert_matches, conv_weights, halves, rng, step

ALGORITHMS = ("direct", "columns", "tiles", "tiles6")
NEAR = 1.6
"""time of the chosen algorithm over the fastest's: measured 1.0 to 1.3, once 1.36 (blocks of 4 against 6 at 256 channels), and
the same algorithm's twice differ by a tenth on a loaded machine"""
SIDE = 128


def model(ci: int, co: int, k: int, border: str) -> tuple[Plan, dict[str, np.ndarray]]:
    """The convolution between two that cost next to nothing."""
    steps = (
        step("conv2d", ("lr",), "a", {"w": "w0"}, activation="relu"),
        step("conv2d", ("a",), "b", {"w": "w1", "b": "b1"}, border=border, activation="relu"),
        step("conv2d", ("b",), "out", {"w": "w2"}),
    )
    return Plan("rgb", 1, steps), conv_weights([(ci, 3, 1), (co, ci, k), (3, co, 1)], ci + co)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("ci", "co", "k", "border"), [(16, 24, 3, "zero"), (8, 32, 5, "symmetric")])
def test_every_way_is_right(ci: int, co: int, k: int, border: str, algorithm: str) -> None:
    plan, weights = model(ci, co, k, border)
    x = rng(1).random((3, 23, 37), dtype=np.float32)
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    for isa in _core.isas():
        assert_matches(
            _core.Session(plan.to_dict(), weights, isa=isa, algorithm=algorithm, poison=True).run(x), expected
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_every_way_takes_joined_inputs(border: str, algorithm: str) -> None:
    """Of values under this border, and of one that another step reads under another: windows that are clipped or not."""
    steps = (
        step("conv2d", ("lr",), "a", {"w": "w0"}, activation="relu"),
        step("conv2d", ("a",), "b", {"w": "w1", "b": "b1"}, border="symmetric"),
        step("conv2d", ("b", "lr", "a", "b"), "c", {"w": "w2", "b": "b2"}, join=3, border=border, activation="silu"),
        step("conv2d", ("c",), "out", {"w": "w3"}),
    )
    plan, weights = Plan("rgb", 1, steps), conv_weights([(9, 3, 1), (24, 9, 3), (24, 36, 3), (3, 24, 1)], 7)
    for shape in ((3, 23, 37), (3, 1, 90)):
        x = rng(1).random(shape, dtype=np.float32)
        expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
        for isa in _core.isas():
            assert_matches(
                _core.Session(plan.to_dict(), weights, isa=isa, algorithm=algorithm, poison=True).run(x), expected
            )


def test_a_way_there_is_not() -> None:
    plan, weights = model(8, 8, 3, "zero")
    with pytest.raises(InputError, match="algorithm='fft' is not one of direct, columns, tiles, tiles6"):
        _core.Session(plan.to_dict(), weights, algorithm="fft")


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("ci", "co", "k", "border"),
    [
        (28, 28, 3, "zero"),
        (32, 32, 3, "zero"),
        (48, 48, 3, "zero"),
        (64, 32, 3, "zero"),
        (64, 64, 3, "zero"),
        (64, 64, 3, "symmetric"),
        (64, 128, 3, "zero"),
        (128, 128, 3, "zero"),
        (256, 256, 3, "zero"),
        (64, 32, 5, "zero"),
        (16, 64, 5, "replicate"),
    ],
)
def test_the_chosen_way_is_about_the_fastest(ci: int, co: int, k: int, border: str, bf16: bool) -> None:
    if bf16 and not halves():
        pytest.skip("no AVX-512-BF16 here")
    plan, weights = model(ci, co, k, border)
    x = rng(2).random((3, SIDE, SIDE), dtype=np.float32)
    sessions = {
        algorithm: _core.Session(
            plan.to_dict(), weights, threads=1, algorithm=algorithm, bf16=bf16, isa=halves()[-1] if bf16 else ""
        )
        for algorithm in (*ALGORITHMS, "")
    }
    best = dict.fromkeys(sessions, math.inf)
    for _ in range(10):  # a loaded machine gets more turns
        for _ in range(3):
            for algorithm, session in sessions.items():
                begin = time.thread_time()  # one thread runs where it is called: others' turns do not count
                session.run(x)
                best[algorithm] = min(best[algorithm], time.thread_time() - begin)
        if best[""] <= NEAR * min(best.values()):
            break
    assert best[""] <= NEAR * min(best.values()), {k: f"{1e3 * v:.2f} ms" for k, v in best.items()}


@pytest.mark.parametrize("algorithm", ["tiles", "tiles6"])
@pytest.mark.parametrize(("ci", "co"), [(33, 19), (300, 40)])
def test_tiles_at_every_edge_alike_in_every_task(ci: int, co: int, algorithm: str) -> None:
    """Of sizes around those of a block, a vector of blocks and a band, of channels around those of a run of products."""
    plan, weights = model(ci, co, 3, "zero")
    for h, w in ((1, 1), (5, 6), (7, 97), (13, 95), (20, 209)):
        x = rng(h).random((3, h, w), dtype=np.float32)
        expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
        for isa in _core.isas():
            outs = [
                _core.Session(plan.to_dict(), weights, isa=isa, algorithm=algorithm, poison=True, **how).run(x)
                for how in ({}, {"tile": 16, "threads": 1}, {"tile": 6, "threads": 2, "shuffle": 3})
            ]
            assert_matches(outs[0], expected)
            for other in outs[1:]:
                np.testing.assert_array_equal(outs[0], other)


def test_the_error_of_long_sums() -> None:
    """On noise at 256 channels: simulated 2.5e-6 rms for blocks of 6 (5.2e-6 without runs of products) and 0.6e-6 of 4."""
    plan, weights = model(256, 16, 3, "zero")
    x = rng(3).random((3, 48, 48), dtype=np.float32)
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    for algorithm, most in (("tiles", 1.2e-6), ("tiles6", 3.5e-6)):
        out = _core.Session(plan.to_dict(), weights, algorithm=algorithm).run(x)
        assert np.sqrt(np.mean((out - expected) ** 2) / np.mean(expected**2)) <= most
