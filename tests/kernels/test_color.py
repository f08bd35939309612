# SPDX-License-Identifier: Apache-2.0
"""Colour on the device: packed pixels to planes and back, against float64 and against the path of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr import _core, image  # noqa: E402
from fastsr.kernels.triton import color as kernel  # noqa: E402
from fastsr.ops import resize_bicubic  # noqa: E402
from fastsr.testing import assert_matches, rng  # noqa: E402

SIZES = ((1, 1, 1), (2, 3, 2), (1, 4, 129))
"""n, h, w: single pixels, a tile and a tail of rows, more than one program of either kernel"""
DTYPES = {"uint8": 255, "uint16": 65535, "float32": 1}
THERE = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]]) / 255
OFFSET = np.array([16, 128, 128]) / 255
"""RGB to YCbCr, as MATLAB has it"""


def packed(domain: str, scale: int, device: Any) -> kernel.Packed:
    return kernel.pack(*_core.ycbcr(), 1 if domain == "y" else 3, scale, device)


def pixels(seed: int, dtype: str, *shape: int) -> np.ndarray:
    """All levels with their ends; floats a little beyond them."""
    x = rng(seed).random(shape) * 1.2 - 0.1
    x = np.clip(x, -5e-4, 1 + 5e-4) if dtype == "float32" else np.round(np.clip(x, 0, 1) * DTYPES[dtype])
    return x.astype(dtype)


def bicubic(x: np.ndarray, scale: int) -> np.ndarray:
    out: np.ndarray = resize_bicubic.reference(torch.from_numpy(x), scale=scale).numpy()
    return out


def split_exactly(x: np.ndarray, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """(planes for the network, the rest) of [N, H, W, C], in float64."""
    v = x.astype(np.float64).transpose(0, 3, 1, 2) / DTYPES[x.dtype.name]
    colours, alpha = (v[:, :-1], v[:, -1:]) if v.shape[1] in (2, 4) else (v, v[:, :0])
    if domain == "rgb":
        return (np.repeat(colours, 3, 1) if colours.shape[1] == 1 else colours), alpha
    if colours.shape[1] == 1:
        return (16 + 219 * colours) / 255, alpha
    ycbcr = np.einsum("ij,njhw->nihw", THERE, colours) + OFFSET[:, None, None]
    return ycbcr[:, :1], np.concatenate([ycbcr[:, 1:], alpha], 1)


def join_exactly(net: np.ndarray, rest: np.ndarray, channels: int, scale: int) -> np.ndarray:
    """[N, C, s H, s W] in float64, clipped."""
    net, big = net.astype(np.float64), bicubic(rest.astype(np.float64), scale)
    if channels > 2 and net.shape[1] == 1:
        ycbcr = np.concatenate([net, big[:, :2]], 1) - OFFSET[:, None, None]
        net, big = np.einsum("ij,njhw->nihw", np.linalg.inv(THERE), ycbcr), big[:, 2:]
    elif net.shape[1] == 1:
        net = (255 * net - 16) / 219
    elif channels < 3 and net.shape[1] == 3:
        net = net.mean(1, keepdims=True)
    out: np.ndarray = np.clip(np.concatenate([net, big], 1), 0, 1)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_split(device: Any, domain: str, channels: int, dtype: str) -> None:
    for n, h, w in SIZES:
        x = pixels(h, dtype, n, h, w, channels)
        expected = split_exactly(x, domain)
        given = torch.from_numpy(x).to(device)
        # Packed, and planes one after another as torch has them.
        planar = given.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        for view in (given, planar):
            bad = torch.zeros(2, dtype=torch.int32, device=device)
            for found, exact in zip(
                kernel.split(packed(domain, 2, device), view, bad, -1e-3, 1.001), expected, strict=True
            ):
                assert_matches(found.cpu().numpy(), exact) if exact.size else None
                assert found.shape == exact.shape
            assert bad.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_join(device: Any, domain: str, channels: int, dtype: str) -> None:
    for scale, (n, h, w) in zip((4, 3, 1), SIZES, strict=True):
        net = rng(h).random((n, 1 if domain == "y" else 3, h * scale, w * scale), np.float32) * 1.2 - np.float32(0.1)
        _, rest = split_exactly(pixels(w, "uint8", n, h, w, channels), domain)
        rest = rest.astype(np.float32)
        levels, exact = DTYPES[dtype], join_exactly(net, rest, channels, scale)
        for planar in (False, True):
            made = torch.empty((n, channels, h * scale, w * scale), dtype=getattr(torch, dtype), device=device)
            out = made.permute(0, 2, 3, 1) if planar else made.view(n, h * scale, w * scale, channels)
            bad = torch.zeros(2, dtype=torch.int32, device=device)
            kernel.join(
                packed(domain, scale, device), torch.from_numpy(net).to(device), torch.from_numpy(rest).to(device), bad, out
            )  # fmt: skip
            found = out.cpu().numpy().transpose(0, 3, 1, 2).astype(np.float64)
            assert bad.tolist() == [0, 0]
            if levels == 1:
                assert_matches(found, exact)
                continue
            # The nearest level, either one where the exact value lies between two as far as fp32 can tell.
            assert np.abs(found - exact * levels).max() <= 0.5 + 4e-6 * levels
            assert found.min() >= 0
            assert found.max() <= levels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_pixels_are_those_of_the_cpu(device: Any, domain: str, channels: int, dtype: str) -> None:
    """Of the same output of the network: equal, but for the last bit of a float and a level that it decides."""
    x = pixels(7, dtype, 11, 17, channels)
    given = _core.Pixels(x)
    planes = _core.read_pixels(given, domain)
    mine = packed(domain, 2, device)
    bad = torch.zeros(2, dtype=torch.int32, device=device)
    net, rest = kernel.split(mine, torch.from_numpy(x)[None].to(device), bad, _core.LOWEST, _core.HIGHEST)
    there, last = net[0].cpu().numpy(), np.spacing(np.float32(1))
    assert np.abs(there - planes).max() <= (2 * last if domain == "y" else 0)
    big = rng(3).random((planes.shape[0], 22, 34), np.float32)
    expected = np.empty((22, 34, channels), dtype)
    assert _core.write_pixels(big, given, _core.Pixels(expected), domain, 2)
    out = torch.empty((1, 22, 34, channels), dtype=getattr(torch, dtype), device=device)
    kernel.join(mine, torch.from_numpy(big)[None].to(device), rest, bad, out)
    difference = np.abs(out[0].cpu().numpy().astype(np.float64) - expected)
    if dtype == "float32":
        assert difference.max() <= 16 * last
    else:
        assert difference.max() <= 1
        assert (difference > 0).mean() <= (1e-3 if dtype == "uint8" else 0.1)


def test_every_level_comes_back(device: Any) -> None:
    """An identity between split and join changes no pixel of any integer type."""
    for dtype in ("uint8", "uint16"):
        levels = torch.arange(DTYPES[dtype] + 1, dtype=torch.int32).to(getattr(torch, dtype))
        x = levels.reshape(1, -1, 64, 1).to(device)
        bad = torch.zeros(2, dtype=torch.int32, device=device)
        for domain in ("y", "rgb"):
            mine = packed(domain, 1, device)
            net, rest = kernel.split(mine, x, bad, 0, 1)
            out = torch.empty_like(x)
            kernel.join(mine, net, rest, bad, out)
            assert np.array_equal(out.cpu().numpy(), x.cpu().numpy())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.002, 1.002])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bad_floats_are_seen_wherever_they_are(device: Any, channels: int, value: float) -> None:
    mine = packed("y", 2, device)
    for channel in range(channels):
        x = torch.zeros(2, 5, 131, channels, device=device)
        x[1, 4, 130 - channel, channel] = value
        bad = torch.zeros(2, dtype=torch.int32, device=device)
        kernel.split(mine, x, bad, _core.LOWEST, _core.HIGHEST)
        assert bad.tolist() == [1, 0]


def test_the_slack_of_floats_is_that_of_the_cpu(device: Any) -> None:
    for value in (_core.LOWEST, _core.HIGHEST):
        outwards = np.nextafter(value, np.float32(np.copysign(9, value)))
        for v, wrong in ((value, 0), (outwards, 1)):
            x = np.full((1, 2, 2, 1), v, np.float32)
            bad = torch.zeros(2, dtype=torch.int32, device=device)
            kernel.split(packed("y", 2, device), torch.from_numpy(x).to(device), bad, _core.LOWEST, _core.HIGHEST)
            assert bad.tolist() == [wrong, 0]
            if wrong:
                with pytest.raises(image.InputError, match="must lie in"):
                    image.check_values(x)
            else:
                image.check_values(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_output_that_is_not_finite_is_seen(device: Any, domain: str, value: float) -> None:
    mine = packed(domain, 2, device)
    net = torch.zeros(1, 1 if domain == "y" else 3, 6, 140, device=device)
    net[0, -1, 5, 139] = value
    bad = torch.zeros(2, dtype=torch.int32, device=device)
    rest = torch.zeros(1, 2 if domain == "y" else 0, 3, 70, device=device)
    kernel.join(mine, net, rest, bad, torch.empty((1, 6, 140, 3), device=device))
    assert bad.tolist() == [0, 1]
