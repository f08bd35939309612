# SPDX-License-Identifier: Apache-2.0
"""scale_shift against its float64 reference, on every ISA, in any tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr.testing import conv_weights, rng, run_everywhere, step

torch = pytest.importorskip("torch")


@given(h=st.integers(1, 40), w=st.integers(1, 70), scaled=st.booleans(), seed=st.integers(0, 99))
def test_zeros_around_the_shifted_image(h: int, w: int, scaled: bool, seed: int) -> None:
    x = rng(seed).random((3, h, w), dtype=np.float32)
    weights = conv_weights([(3, 3, 3)], seed)
    weights |= {"scale": rng(seed).random(3, dtype=np.float32), "shift": rng(seed + 1).random(3, dtype=np.float32)}
    roles = {"shift": "shift"} | ({"scale": "scale"} if scaled else {})
    steps = [
        step("scale_shift", ("lr",), "centred", roles),
        step("conv2d", ("centred",), "out", {"w": "w0", "b": "b0"}),
    ]
    run_everywhere(x, 1, steps, weights)
