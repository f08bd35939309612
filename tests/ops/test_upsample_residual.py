# SPDX-License-Identifier: Apache-2.0
"""upsample_residual against its float64 reference, on every ISA, in any tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr.testing import conv_weights, rng, run_everywhere, step

torch = pytest.importorskip("torch")


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 70),
    channels=st.integers(1, 20),
    scale=st.integers(2, 4),
    activation=st.sampled_from(["none", "relu", "leaky_relu"]),
    seed=st.integers(0, 99),
)
def test_kernel_matches_the_reference(h: int, w: int, channels: int, scale: int, activation: str, seed: int) -> None:
    random = rng(seed)
    x = random.random((3, h, w), dtype=np.float32) - 0.5
    weights = conv_weights([(channels, 3, 1), (3, channels, 3)], seed)
    up = random.standard_normal((channels, channels, scale, scale)) / np.sqrt(channels)
    weights |= {"up": up.astype(np.float32), "shift": weights["b0"] * 0.5}
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}),
        step(
            "upsample_residual", ("a",), "b", {"w": "up", "b": "shift"}, scale=scale, activation=activation, slope=0.2
        ),
        step("conv2d", ("b",), "out", {"w": "w1", "b": "b1"}),
    ]
    run_everywhere(x, scale, steps, weights)
