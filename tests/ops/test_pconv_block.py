# SPDX-License-Identifier: Apache-2.0
"""pconv_block against its float64 reference, on every ISA, in any tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr.testing import conv_weights, rng, run_everywhere, step

torch = pytest.importorskip("torch")

ROLES = {"w1": "w1", "b1": "b1", "w3": "w2", "b3": "b2"}


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 70),
    width=st.integers(1, 40),
    bottleneck=st.integers(1, 40),
    slope=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_two_blocks_match_the_reference(h: int, w: int, width: int, bottleneck: int, slope: float, seed: int) -> None:
    x = rng(seed).random((3, h, w), dtype=np.float32) - 0.5
    weights = conv_weights([(width, 3, 1), (bottleneck, width, 1), (width, bottleneck, 3), (3, width, 1)], seed)
    how = {"activation": "leaky_relu" if slope else "relu", "slope": slope}
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}),
        step("pconv_block", ("a",), "b", ROLES, **how),
        step("pconv_block", ("b",), "c", {"w1": "w1", "w3": "w2"}, **how),
        step("conv2d", ("c", "lr"), "out", {"w": "w3", "b": "b3"}, input_activation=how["activation"], slope=slope),
    ]
    run_everywhere(x, 1, steps, weights)


def test_the_papers_width() -> None:
    x = rng(1).random((3, 41, 150), dtype=np.float32)
    weights = conv_weights([(128, 3, 1), (64, 128, 1), (128, 64, 3), (3, 128, 1)], 1)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}),
        step("pconv_block", ("a",), "b", ROLES),
        step("conv2d", ("b",), "out", {"w": "w3", "b": "b3"}),
    ]
    run_everywhere(x, 1, steps, weights)
