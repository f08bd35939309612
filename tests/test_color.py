# SPDX-License-Identifier: Apache-2.0
"""RGB <-> YCbCr against the figures of BT.601 and of MATLAB's rgb2ycbcr."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core, color, image
from fastsr.testing import rng


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((0, 0, 0), (16, 128, 128)),
        ((1, 1, 1), (235, 128, 128)),
        ((1, 0, 0), (81.481, 90.203, 240)),
        ((0, 1, 0), (144.553, 53.797, 34.214)),
        ((0, 0, 1), (40.966, 240, 109.786)),
    ],
)
def test_the_corners_of_the_cube(rgb: tuple[float, ...], ycbcr: tuple[float, ...]) -> None:
    x = np.array(rgb, np.float32).reshape(3, 1, 1)
    assert np.abs(color.rgb_to_ycbcr(x).ravel() * 255 - ycbcr).max() < 1e-4


@given(seed=st.integers(0, 1000), h=st.integers(1, 20), w=st.integers(1, 20))
def test_there_and_back(seed: int, h: int, w: int) -> None:
    x = rng(seed).random((3, h, w), dtype=np.float32)
    assert np.abs(color.ycbcr_to_rgb(color.rgb_to_ycbcr(x)) - x).max() < 2e-6


def test_eight_bit_colours_survive() -> None:
    x = rng(0).integers(0, 256, (3, 100, 100)).astype(np.float32) / 255
    back = color.ycbcr_to_rgb(color.rgb_to_ycbcr(x))
    assert np.array_equal(np.round(back * 255), np.round(x * 255))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_joining_what_was_split_is_bicubic_for_bicubic(channels: int, domain: str) -> None:
    """When the network is bicubic, so is the picture: the colour transform and the resize commute."""
    a = rng(2).random((9, 7, channels), dtype=np.float32)
    [picture] = image.take(a)
    planes, chroma = color.split(picture, domain)
    assert planes.shape[0] == (1 if domain == "y" else 3)
    joined = color.join(picture, _core.resize_bicubic(np.ascontiguousarray(planes), 18, 14), chroma, 1)
    expected = _core.resize_bicubic(np.ascontiguousarray(a.transpose(2, 0, 1)), 18, 14)
    got = joined.planes if joined.alpha is None else np.concatenate([joined.planes, joined.alpha])
    assert np.abs(got - expected).max() < 3e-6
