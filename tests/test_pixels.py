# SPDX-License-Identifier: Apache-2.0
"""Pixels around a network, of every ISA: to the bit what numpy made of them, whatever the band, layout and threads; YUV 4:2:0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsr import InputError, _core
from fastsr.testing import rng

TO_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
OFFSET = np.array([16.0, 128.0, 128.0]) / 255
TO_RGB = np.linalg.inv(TO_YCBCR)
LEVELS = {"u1": 255, "u2": 65535, "f4": 1}
ISAS = _core.isas()


# --- the way of numpy, as it was before the core had pixels ---------------------------------------------------------------


def affine(x: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """numpy's sgemm: each product but the first fused with its sum, which longdouble shows to about one bit in 2^40."""
    m, x = matrix.astype(np.float32), x.astype(np.float32)

    def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return (np.asarray(a, np.longdouble) * b + c).astype(np.float32)

    rows = [fused(m[i, 2], x[2], fused(m[i, 1], x[1], m[i, 0] * x[0])) for i in range(3)]
    out: np.ndarray = np.stack(rows) + offset.astype(np.float32)[:, None, None]
    return out


def old_split(a: np.ndarray, domain: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(what the network reads, chroma, alpha) of [H, W, C]."""
    levels = LEVELS[a.dtype.str[1:]]
    x = a.astype(np.float32)
    x = np.ascontiguousarray((x if levels == 1 else x / np.float32(levels)).transpose(2, 0, 1))
    colours, alpha = (x[:-1], x[-1:]) if len(x) in (2, 4) else (x, x[:0])
    if domain == "rgb":
        return (np.repeat(colours, 3, 0) if len(colours) == 1 else colours), x[:0], alpha
    if len(colours) == 1:  # gray, which was fed as it is then: three equal channels
        return affine(np.repeat(colours, 3, 0), TO_YCBCR, OFFSET)[:1], x[:0], alpha
    ycbcr = affine(colours, TO_YCBCR, OFFSET)
    return ycbcr[:1], ycbcr[1:], alpha


def old_join(net: np.ndarray, chroma: np.ndarray, alpha: np.ndarray, like: np.ndarray) -> np.ndarray:
    h, w = net.shape[1:]

    def big(x: np.ndarray) -> np.ndarray:
        return _core.resize_bicubic(np.ascontiguousarray(x), h, w) if len(x) else np.empty((0, h, w), np.float32)

    if len(chroma):
        net = affine(np.concatenate([net, big(chroma)]), TO_RGB, -TO_RGB @ OFFSET)
    elif like.shape[2] < 3 and len(net) == 3:
        net = net.mean(0, keepdims=True)
    elif like.shape[2] < 3:
        net = (net.astype(np.float64) * 255 / 219 - 16 / 219).astype(np.float32)
    c = np.clip(np.concatenate([net, big(alpha)]), 0, 1)
    levels = LEVELS[like.dtype.str[1:]]
    out: np.ndarray = c.transpose(1, 2, 0) if levels == 1 else (c * levels + 0.5).transpose(1, 2, 0)
    return out.astype(like.dtype)


def picture(seed: int, h: int, w: int, channels: int, dtype: str) -> np.ndarray:
    x = rng(seed).random((h, w, channels)) * LEVELS[dtype[-2:]]
    return (x if dtype[-2:] == "f4" else np.round(x)).astype(dtype)


def output(seed: int, domain: str, h: int, w: int) -> np.ndarray:
    """What a network may give: a little beyond [0, 1]."""
    return rng(seed).random((1 if domain == "y" else 3, h, w), dtype=np.float32) * np.float32(1.2) - np.float32(0.1)


@pytest.mark.parametrize("isa", ISAS)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 90),
    channels=st.integers(1, 4),
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<f4", ">f4"]),
    domain=st.sampled_from(["y", "rgb"]),
    scale=st.sampled_from([1, 2, 3, 4, 5, 8, 16]),
    tile=st.tuples(st.integers(1, 40), st.integers(1, 400)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_pixels_are_those_of_numpy_to_the_bit(
    isa: str, h: int, w: int, channels: int, dtype: str, domain: str, scale: int, tile: Any, threads: int, seed: int
) -> None:
    """On every ISA: without FMA the core fuses by way of doubles. Gray on a network on Y alone may be one last bit off."""
    h, w = max(1, h // scale), max(1, w // scale)
    a = picture(seed, h, w, channels, dtype)
    image = _core.Pixels(a)
    net, chroma, alpha = old_split(a, domain)
    assert np.array_equal(_core.read_pixels(image, domain, isa=isa, threads=threads), net)
    made = output(seed, domain, h * scale, w * scale)
    out = np.empty((h * scale, w * scale, channels), dtype)
    assert _core.write_pixels(made, image, _core.Pixels(out), domain, scale, tile=tile, isa=isa, threads=threads)
    expected = old_join(made, chroma, alpha, a)
    if channels > 2 or domain == "rgb":
        assert np.array_equal(out, expected)
    else:
        last = 1.2e-7 if dtype[-2:] == "f4" else 1
        assert np.abs(out.astype(np.float64) - expected).max() <= last


def test_the_way_of_numpy_is_still_that_of_numpy() -> None:
    x = rng(0).random((3, 40, 50), dtype=np.float32)
    gemm = (TO_YCBCR.astype(np.float32) @ x.reshape(3, -1) + OFFSET.astype(np.float32)[:, None]).reshape(x.shape)
    assert np.abs(gemm - affine(x, TO_YCBCR, OFFSET)).max() <= 1.2e-7  # equal where its BLAS fuses, as OpenBLAS does


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("domain", ["y", "rgb"])
def test_layouts_give_what_packed_pixels_give(isa: str, dtype: str, channels: int, domain: str) -> None:
    """BGR, alpha first, planes, turned, mirrored, with gaps, not aligned: as inputs and as outputs."""
    a = picture(1, 21, 37, channels, dtype)
    net = output(2, domain, 63, 111)
    expected = np.empty((63, 111, channels), dtype)
    _core.write_pixels(net, _core.Pixels(a), _core.Pixels(expected), domain, 3, isa=isa)

    def layouts(h: int, w: int) -> dict[str, np.ndarray]:
        """Empty memory of each layout, seen as [h, w, C] in the order of a."""
        return {
            "swapped": np.zeros((h, w, channels), dtype)[:, :, ::-1],  # BGR, or alpha first
            "planes": np.zeros((channels, h, w), dtype).transpose(1, 2, 0),
            "turned": np.zeros((w, h, channels), dtype).transpose(1, 0, 2),
            "mirrored": np.zeros((h, w, channels), dtype)[::-1, ::-1],
            "gaps": np.zeros((2 * h, 3 * w, channels + 2), dtype)[::2, ::3, 1:-1],
            "rows apart": np.zeros((h, w + 5, channels), dtype)[:, 2 : w + 2],
            "not aligned": np.zeros(h * w * channels * a.itemsize + 1, np.uint8)[1:]
            .view(dtype)
            .reshape(h, w, channels),
        }

    for name, given_ in layouts(21, 37).items():
        given_[:] = a
        out = layouts(63, 111)[name]
        base = out.base if out.base is not None else out
        assert np.array_equal(
            _core.read_pixels(_core.Pixels(given_), domain, isa=isa), _core.read_pixels(_core.Pixels(a), domain)
        ), name
        _core.write_pixels(net, _core.Pixels(given_), _core.Pixels(out), domain, 3, isa=isa)
        assert np.array_equal(out, expected), name
        if name in ("gaps", "rows apart"):  # nothing beside the pixels was written
            out[:] = 0
            assert not np.asarray(base).any(), name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("order", ["BGRA", "ARGB", "BGR", "AY"])
def test_channels_of_any_order(isa: str, dtype: str, order: str) -> None:
    a = picture(1, 21, 37, len(order), dtype)
    usual = [order.index(name) for name in ("YA" if "Y" in order else "RGBA"[: len(order)])]
    net, made, expected = (
        output(2, "y", 63, 111),
        np.empty((63, 111, len(order)), dtype),
        np.empty((63, 111, len(order)), dtype),
    )
    plain = _core.Pixels(np.ascontiguousarray(a[:, :, usual]))
    _core.write_pixels(net, plain, _core.Pixels(expected), "y", 3, isa=isa)
    image = _core.Pixels(a, order=order)
    assert np.array_equal(_core.read_pixels(image, "rgb", isa=isa), _core.read_pixels(plain, "rgb", isa=isa))
    _core.write_pixels(net, image, _core.Pixels(made, order=order), "y", 3, isa=isa)
    assert np.array_equal(made[:, :, usual], expected)
    with pytest.raises(InputError, match="order 'RGBX'"):
        _core.Pixels(a, order="RGBX")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_seen_wherever_it_is(isa: str, value: float) -> None:
    for domain, channels in (("y", 3), ("y", 1), ("rgb", 4), ("rgb", 1)):
        a = picture(0, 7, 33, channels, "u1")
        out = np.empty((14, 66, channels), np.uint8)
        for at in ((0, 0, 0), (-1, 13, 65), (-1, 6, 17)):
            net = output(1, domain, 14, 66)
            net[at] = value
            assert not _core.write_pixels(net, _core.Pixels(a), _core.Pixels(out), domain, 2, isa=isa)


def test_values_of_floats_are_checked() -> None:
    for shape, channels_first in (((20, 300), False), ((20, 300, 3), False), ((4, 20, 300), True)):
        for place in ((0,) * len(shape), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)):
            for value, message in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")):
                a = np.zeros(shape, np.float32)
                a[place] = value
                where = str(place).replace("(", r"\(").replace(")", r"\)")
                with pytest.raises(InputError, match=f"holds {message} at index {where}: replace"):
                    _core.Pixels(a, channels_first).check()
            for value in (-0.002, 1.002, 255):
                a = np.full(shape, 0.5, np.float32)
                a[place] = value
                with pytest.raises(InputError, match=r"in \[0, 1\], this one goes from"):
                    _core.Pixels(a, channels_first).check()
    first = np.zeros((2, 3, 4), np.float32)
    first[0, 2, 1] = first[1, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"\(7, 0, 2, 1\)"):
        _core.Pixels(first, channels_first=True).check(7)
    with pytest.raises(InputError, match=r"\(0, 2, 1\)"):
        _core.Pixels(first).check()


def test_what_is_no_image_is_refused() -> None:
    good = _core.Pixels(np.zeros((4, 5, 3), np.uint8))
    for bad in (np.zeros(4, np.uint8), np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4), np.int32)):
        with pytest.raises(InputError):
            _core.Pixels(bad)
    with pytest.raises(InputError, match="empty"):
        _core.Pixels(np.zeros((0, 4), np.uint8))
    locked = np.zeros((8, 10, 3), np.uint8)
    locked.flags.writeable = False
    net = np.zeros((1, 8, 10), np.float32)
    for out, message in (
        (locked, "cannot be written"),
        (np.zeros((8, 11, 3), np.uint8), "expected 10x8"),
        (np.zeros((8, 10, 4), np.uint8), "other channels"),
    ):
        with pytest.raises(InputError, match=message):
            _core.write_pixels(net, good, _core.Pixels(out), "y", 2)
    with pytest.raises(InputError, match=r"expected a \[1, 8, 10\] array"):
        _core.write_pixels(net[:, :7], good, _core.Pixels(np.zeros((8, 10, 3), np.uint8)), "y", 2)


# --- YUV 4:2:0 ----------------------------------------------------------------------------------------------------------

KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def cubic(x: float) -> float:
    x = abs(x)
    return (1.5 * x - 2.5) * x * x + 1 if x <= 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x <= 2 else 0


def resample(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The last axis at these places, by bicubic with a symmetric border, in float64."""
    n = x.shape[-1]
    m = np.zeros((len(places), n))
    for row, u in zip(m, places, strict=True):
        for j in range(int(np.floor(u)) - 1, int(np.floor(u)) + 3):
            k = j % (2 * n)
            row[k if k < n else 2 * n - 1 - k] += cubic(u - j)
    return x.astype(np.float64) @ m.T


def both_axes(x: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    return resample(np.swapaxes(resample(np.swapaxes(x, -1, -2), down), -1, -2), across)


def frame(kind: str, h: int, w: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(planes as they lie in memory, Y, [U, V] as codes)."""
    top, ch, cw = (1023 if kind == "p010" else 255), (h + 1) // 2, (w + 1) // 2
    y, uv = rng(seed).integers(0, top + 1, (h, w)), rng(seed + 1).integers(0, top + 1, (2, ch, cw))
    if kind == "i420":
        return [y.astype(np.uint8), uv[0].astype(np.uint8), uv[1].astype(np.uint8)], y, uv
    shift, dtype = (6, np.uint16) if kind == "p010" else (0, np.uint8)
    return [(y << shift).astype(dtype), np.ascontiguousarray((uv << shift).transpose(1, 2, 0)).astype(dtype)], y, uv


def codes(kind: str, planes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    shift = 6 if kind == "p010" else 0
    uv = np.stack(planes[1:]) if kind == "i420" else planes[1].transpose(2, 0, 1)
    return planes[0].astype(int) >> shift, uv.astype(int) >> shift


def empty_frame(kind: str, h: int, w: int) -> list[np.ndarray]:
    return [np.full_like(p, 77) for p in frame(kind, h, w)[0]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("siting", ["left", "center"])
@pytest.mark.parametrize("kind", ["i420", "nv12", "p010"])
def test_yuv_around_a_network_on_y(isa: str, kind: str, siting: str, full: bool) -> None:
    for h, w, s, tile in ((10, 22, 3, (7, 13)), (9, 31, 2, (5, 9)), (1, 1, 4, (1, 1)), (5, 3, 1, (2, 2))):
        planes, y, uv = frame(kind, h, w)
        image = _core.Pixels.yuv(kind, planes, "bt709", full, siting)
        top = 1023 if kind == "p010" else 255
        one = (1023 if full else 1020) if kind == "p010" else 255
        read = _core.read_pixels(image, "y", isa=isa)[0]
        expected = (16 + 219 * y / one) / 255 if full else y / one
        assert np.abs(read - expected).max() < 1e-6
        made = empty_frame(kind, h * s, w * s)
        net = rng(5).random((1, h * s, w * s), dtype=np.float32)
        out = _core.Pixels.yuv(kind, made, "bt709", full, siting)
        assert _core.write_pixels(net, image, out, "y", s, tile=tile, isa=isa)
        made_y, made_uv = codes(kind, made)
        exact = np.clip(((net[0] * 255 - 16) / 219 if full else net[0]).astype(np.float64), 0, 1) * one
        assert np.abs(made_y - exact).max() <= 0.5 + 1e-3
        ch, cw = made_uv.shape[1:]
        place = 0.25 if siting == "left" else 0.5
        down, across = (np.arange(ch) + 0.5) / s - 0.5, (np.arange(cw) + place) / s - place
        exact = np.clip(both_axes(uv, down, across), 0, one)
        assert np.abs(made_uv - exact).max() <= 0.5 + 1e-3
        assert made_y.max() <= top


@pytest.mark.parametrize("matrix", list(KR_KB))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("siting", ["left", "center"])
@pytest.mark.parametrize("kind", ["i420", "nv12", "p010"])
def test_yuv_around_a_network_on_rgb(kind: str, siting: str, full: bool, matrix: str) -> None:
    kr, kb = KR_KB[matrix]
    one = (1023 if full else 1020) if kind == "p010" else 255
    for h, w, tile in ((10, 22, (7, 13)), (9, 31, (5, 8)), (1, 1, (1, 1))):
        planes, y, uv = frame(kind, h, w)
        image = _core.Pixels.yuv(kind, planes, matrix, full, siting)
        down = np.arange(h) / 2 - 0.25
        across = np.arange(w) / 2 - (0 if siting == "left" else 0.25)
        u, v = both_axes(uv / one, down, across) - 128 / 255
        u, v = (u, v) if full else (u * 255 / 224, v * 255 / 224)
        luma = y / one if full else (y / one * 255 - 16) / 219
        red, blue = luma + 2 * (1 - kr) * v, luma + 2 * (1 - kb) * u
        green = (luma - kr * red - kb * blue) / (1 - kr - kb)
        read = _core.read_pixels(image, "rgb")
        assert np.abs(read - np.stack([red, green, blue])).max() < 3e-6
        # And back: a network that changes nothing gives Y again, and chroma averaged over its pixels.
        made = empty_frame(kind, h, w)
        assert _core.write_pixels(read, image, _core.Pixels.yuv(kind, made, matrix, full, siting), "rgb", 1, tile=tile)
        made_y, made_uv = codes(kind, made)
        assert np.abs(made_y - np.minimum(y, one)).max() <= 1
        big = both_axes(uv, down, across)
        rows = (big[:, ::2] + big[:, np.minimum(np.arange(1, h + 1, 2), h - 1)]) / 2
        x = 2 * np.arange(made_uv.shape[2])
        left, right = rows[..., np.maximum(x - 1, 0)], rows[..., np.minimum(x + 1, w - 1)]
        exact = (rows[..., x] + right) / 2 if siting == "center" else (left + 2 * rows[..., x] + right) / 4
        assert np.abs(made_uv - np.clip(exact, 0, one)).max() <= 0.5 + 2e-3
