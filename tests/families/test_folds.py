# SPDX-License-Identifier: Apache-2.0
"""The folds of lowerings compute what they stand for, borders and all, in float64."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pixel_shuffle  # noqa: E402

from fastsr.families import folds  # noqa: E402
from fastsr.testing import rng  # noqa: E402

SIZES = ((1, 1), (1, 4), (5, 3), (6, 7))


def small(seed: int, *shape: int) -> np.ndarray:
    """Of few bits, so that sums of weights are exact in float32."""
    return rng(seed).integers(-64, 64, shape) / 64


def folded(x: torch.Tensor, w: np.ndarray, scale: int) -> torch.Tensor:
    return pixel_shuffle(conv2d(x, torch.from_numpy(w).double(), padding=w.shape[-1] // 2), scale)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_nearest_and_convolution(scale: int, k: int) -> None:
    w = small(1, 4, 3, k, k)
    made = folds.nearest_conv(w, scale)
    assert made.shape[-1] <= k
    for h, width in SIZES:
        x = torch.from_numpy(small(2, 2, 3, h, width))
        expected = conv2d(interpolate(x, scale_factor=scale, mode="nearest"), torch.from_numpy(w), padding=k // 2)
        assert (folded(x, made, scale) - expected).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("k", "stride", "padding", "output_padding"), [(4, 2, 1, 0), (2, 2, 0, 0), (9, 2, 4, 1), (9, 3, 4, 2), (9, 4, 4, 3)]
)
def test_transposed_convolution(k: int, stride: int, padding: int, output_padding: int) -> None:
    w = small(1, 3, 4, k, k)
    made = folds.deconv(w, stride, padding)
    for h, width in SIZES:
        x = torch.from_numpy(small(2, 2, 3, h, width))
        expected = conv_transpose2d(
            x, torch.from_numpy(w), stride=stride, padding=padding, output_padding=output_padding
        )
        assert (folded(x, made, stride) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [2, 3])
def test_a_nearest_base_and_biases(scale: int) -> None:
    x, b = torch.from_numpy(small(1, 1, 3, 4, 5)), small(2, 3)
    maps = conv2d(x, torch.from_numpy(folds.nearest(3, scale)).double(), torch.from_numpy(folds.repeated(b, scale)))
    expected = interpolate(x, scale_factor=scale, mode="nearest") + torch.from_numpy(b)[:, None, None]
    assert torch.equal(pixel_shuffle(maps, scale), expected)
