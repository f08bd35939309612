# SPDX-License-Identifier: Apache-2.0
"""pixel_shuffle against its float64 reference, on every ISA, in any tiles."""

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
    channels=st.integers(1, 5),
    scale=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_shuffled_between_convolutions(h: int, w: int, channels: int, scale: int, seed: int) -> None:
    x = rng(seed).random((3, h, w), dtype=np.float32)
    weights = conv_weights([(channels * scale**2, 3, 3), (3, channels, 3)], seed)
    weights |= {"scale": rng(seed).random(3, dtype=np.float32), "shift": rng(seed + 1).random(3, dtype=np.float32)}
    steps = [
        step("scale_shift", ("lr",), "centred", {"shift": "shift", "scale": "scale"}),
        step("conv2d", ("centred",), "wide", {"w": "w0", "b": "b0"}),
        step("pixel_shuffle", ("wide",), "large", scale=scale),
        step("conv2d", ("large",), "made", {"w": "w1", "b": "b1"}),
        step("scale_shift", ("made",), "out", {"shift": "shift"}),
    ]
    run_everywhere(x, scale, steps, weights)
