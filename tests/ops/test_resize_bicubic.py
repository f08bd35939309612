# SPDX-License-Identifier: Apache-2.0
"""resize_bicubic against its float64 reference, on every ISA; and the general resize against MATLAB's own formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core
from fastsr.testing import assert_matches, rng, run_everywhere, step

torch = pytest.importorskip("torch")


@given(h=st.integers(1, 40), w=st.integers(1, 60), scale=st.integers(1, 6), seed=st.integers(0, 99))
def test_kernel_matches_the_reference(h: int, w: int, scale: int, seed: int) -> None:
    x = rng(seed).random((1, h, w), dtype=np.float32)
    run_everywhere(x, scale, [step("resize_bicubic", ("lr",), "out", scale=scale)], {})


def imresize(x: np.ndarray, scale: float) -> np.ndarray:
    """MATLAB's imresize(x, scale, 'bicubic') of [h, w], written from its documentation, in float64."""
    for axis in (0, 1):
        n = x.shape[axis]
        out = int(np.ceil(n * scale))
        stretch = min(scale, 1.0)
        m = np.zeros((out, n))
        for o in range(out):
            u = (o + 0.5) / scale - 0.5
            taps = np.arange(np.floor(u - 2 / stretch) - 1, np.ceil(u + 2 / stretch) + 2)
            d = np.abs(u - taps) * stretch
            k = np.where(d <= 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0))
            i = taps.astype(int) % (2 * n)
            np.add.at(m[o], np.where(i < n, i, 2 * n - 1 - i), k / k.sum())
        x = np.moveaxis(np.tensordot(m, x, (1, axis)), 0, axis)
    return x


@given(
    h=st.integers(1, 50),
    w=st.integers(1, 50),
    scale=st.sampled_from([0.25, 1 / 3, 0.5, 0.7, 0.98, 1.0, 1.2, 2.0, 3.0, 4.5]),
    seed=st.integers(0, 99),
)
def test_any_factor_is_matlabs(h: int, w: int, scale: float, seed: int) -> None:
    x = rng(seed).random((2, h, w), dtype=np.float32)
    oh, ow = int(np.ceil(h * scale)), int(np.ceil(w * scale))
    out = _core.resize_bicubic(x, oh, ow, scale=scale)
    expected = np.stack([imresize(c.astype(np.float64), scale) for c in x])
    assert_matches(out, expected)


def test_threads_change_nothing() -> None:
    x = rng(0).random((3, 61, 47), dtype=np.float32)
    assert (
        _core.resize_bicubic(x, 200, 100, threads=1).tobytes() == _core.resize_bicubic(x, 200, 100, threads=5).tobytes()
    )
