# SPDX-License-Identifier: Apache-2.0
"""RGB <-> YCbCr in the core, against the figures of BT.601 and of MATLAB's rgb2ycbcr; gray is RGB of equal channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fastsr
from fastsr import _core
from fastsr.testing import rng

THERE = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]]) / 255


def test_the_matrices_are_those_of_matlab() -> None:
    there, back = (np.array(m) for m in _core.ycbcr())
    assert np.array_equal(there[:, :3], THERE.astype(np.float32))
    assert np.array_equal(there[:, 3], (np.array([16, 128, 128]) / 255).astype(np.float32))
    home = np.linalg.inv(THERE)
    assert np.array_equal(back[:, :3], home.astype(np.float32))
    assert np.array_equal(back[:, 3], (-home @ np.array([16, 128, 128]) / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("rgb", "y"), [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)]
)
def test_the_corners_of_the_cube(rgb: tuple[float, ...], y: float) -> None:
    found = _core.read_pixels(_core.Pixels(np.array(rgb, np.float32).reshape(1, 1, 3)), "y")
    assert abs(found.item() * 255 - y) < 1e-4


@given(seed=st.integers(0, 1000), h=st.integers(1, 20), w=st.integers(1, 20), channels=st.integers(1, 4))
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_what_is_read_and_written_is_what_it_was(domain: str, seed: int, h: int, w: int, channels: int) -> None:
    """A network that changes nothing: every level of integers comes back, and floats to a few last bits."""
    for dtype, levels in (("uint8", 255), ("uint16", 65535), ("float32", 1)):
        x = rng(seed).random((h, w, channels)) * levels
        x = (x if levels == 1 else np.round(x)).astype(dtype)
        out = np.empty_like(x)
        image = _core.Pixels(x)
        assert _core.write_pixels(_core.read_pixels(image, domain), image, _core.Pixels(out), domain, 1)
        assert np.abs(out.astype(np.float64) - x).max() <= (2e-6 if levels == 1 else 0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_joining_what_was_split_is_bicubic_for_bicubic(channels: int, domain: str) -> None:
    """When the network is bicubic, so is the picture: the colour transform and the resize commute."""
    a = rng(2).random((9, 7, channels), dtype=np.float32)
    image, out = _core.Pixels(a), np.empty((18, 14, channels), np.float32)
    planes = _core.read_pixels(image, domain)
    assert planes.shape[0] == (1 if domain == "y" else 3)
    assert _core.write_pixels(_core.resize_bicubic(planes, 18, 14), image, _core.Pixels(out), domain, 2)
    expected = _core.resize_bicubic(np.ascontiguousarray(a.transpose(2, 0, 1)), 18, 14)
    assert np.abs(out.transpose(2, 0, 1) - np.clip(expected, 0, 1)).max() < 3e-6


# --- gray ---------------------------------------------------------------------------------------------------------------


def sky() -> np.ndarray:
    """Stars on black: most of it below the 16 of studio swing."""
    y, x = np.mgrid[:30, :40]
    a = sum(
        b * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2.5)
        for cy, cx, b in rng(3).uniform((0, 0, 40), (30, 40, 255), (9, 3))
    )
    return np.clip(a, 0, 255).astype(np.uint8)


def grays() -> dict[str, tuple[Any, Callable[[Any], np.ndarray]]]:
    """The sky as every kind of gray, and how to have its levels of 0 to 255 again."""
    a = sky()
    whole = np.float32(255)
    found: dict[str, tuple[Any, Callable[[Any], np.ndarray]]] = {
        "uint8": (a, np.asarray),
        "one channel": (a[:, :, None], lambda out: out[:, :, 0]),
        "with alpha": (np.stack([a, 255 - a], -1), lambda out: out[:, :, 0]),
        "uint16": (a.astype(np.uint16) * 257, lambda out: out / 257),
        "big-endian": ((a.astype(np.uint16) * 257).astype(">u2"), lambda out: out / 257),
        "float": (a / whole, lambda out: out * 255),
        "L": (Image.fromarray(a), np.asarray),
        "LA": (Image.fromarray(np.stack([a, 255 - a], -1)), lambda out: np.asarray(out)[:, :, 0]),
        "I;16": (Image.fromarray(a.astype(np.uint16) * 257), lambda out: np.asarray(out) / 257),
        "I": (Image.fromarray(a.astype(np.int32) * 257), lambda out: np.asarray(out) / 257),
        "F": (Image.fromarray(a / whole), lambda out: np.asarray(out) * 255),
    }
    return found


@pytest.mark.parametrize("kind", grays())
def test_gray_is_rgb_of_equal_channels(small_model: Callable[..., Path], kind: str) -> None:
    net = fastsr.load(small_model(), device="cpu")
    img, levels = grays()[kind]
    rgb = net.upscale(np.repeat(sky()[:, :, None], 3, 2))
    assert np.abs(levels(net.upscale(img)) - rgb[:, :, 1]).max() <= 1


def test_one_bit_and_tensors_are_rgb_of_equal_channels(small_model: Callable[..., Path]) -> None:
    net = fastsr.load(small_model(), device="cpu")
    bits = Image.fromarray(sky()).convert("1")
    rgb = np.asarray(net.upscale(bits.convert("RGB"))).astype(int)
    assert np.abs(np.asarray(net.upscale(bits)) - rgb[:, :, 0]).max() <= 1
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(sky() / np.float32(255))[None]
    assert (net.upscale(x) - net.upscale(x.expand(3, -1, -1))[:1]).abs().max() < 1e-5
