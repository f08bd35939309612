# SPDX-License-Identifier: Apache-2.0
"""cista against its float64 reference, on every ISA, in any tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core
from fastsr.plan import Plan
from fastsr.testing import conv_weights, rng, run_everywhere, step

torch = pytest.importorskip("torch")


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 70),
    n0=st.integers(1, 20),
    m0=st.integers(1, 40),
    k=st.sampled_from([1, 3, 5]),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_kernel_matches_the_reference(h: int, w: int, n0: int, m0: int, k: int, steps: int, seed: int) -> None:
    x = rng(seed).random((1, h, w), dtype=np.float32)
    weights = conv_weights([(n0, 1, 3), (m0, n0, k), (m0, m0, k), (1, m0, 3)], seed)
    plan = [
        step("conv2d", ("lr",), "y", {"w": "w0", "b": "b0"}, activation="relu"),
        step("cista", ("y",), "z", {"w": "w1", "s": "w2"}, steps=steps),
        step("conv2d", ("z", "lr"), "out", {"w": "w3", "b": "b3"}),
    ]
    run_everywhere(x, 1, plan, weights)


def test_all_recursions_of_the_paper_share_their_weights() -> None:
    n0, m0 = 16, 64
    weights = conv_weights([(n0, 1, 3), (m0, n0, 3), (m0, m0, 3), (1, m0, 3)], 3)
    weights["w2"] *= 0.7  # 25 recursions of a random s would grow without bounds
    x = rng(3).random((1, 21, 37), dtype=np.float32)

    def plan(steps: int) -> list:  # type: ignore[type-arg]
        return [
            step("conv2d", ("lr",), "y", {"w": "w0", "b": "b0"}, activation="relu"),
            step("cista", ("y",), "z", {"w": "w1", "s": "w2"}, steps=steps),
            step("conv2d", ("z", "lr"), "out", {"w": "w3", "b": "b3"}),
        ]

    run_everywhere(x, 1, plan(25), weights)
    few, many = (_core.Session(Plan("y", 1, tuple(plan(k))).to_dict(), weights, threads=1) for k in (5, 25))
    assert many.memory(21, 37) - few.memory(21, 37) < 4 * weights["w2"].nbytes  # one copy of s, planes used in turns
    assert [row["op"] for row in many.explain(50, 91)] == ["conv2d", "cista", "conv2d"]
    assert many.radius == few.radius + 20
