# SPDX-License-Identifier: Apache-2.0
"""Colours under alpha 0: those beside them go into the network, and they come back as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsr
from fastsr import _core


def spread(a: np.ndarray, reach: int) -> np.ndarray:
    """[H, W, C] by the definition, a ring at a time."""
    native = a.dtype.newbyteorder("=")
    out, known = a.astype(native), a[..., -1] != 0
    for _ in range(reach):
        before, seen = out.copy(), known.copy()
        for y, x in np.argwhere(~known):
            rows, columns = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
            around = before[rows, columns][known[rows, columns]]
            if len(around):
                mean = around[:, :-1].astype(np.float64).mean(0)
                out[y, x, :-1] = mean if native.kind == "f" else np.rint(mean)
                seen[y, x] = True
        known = seen
    return out


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_spread_is_the_definition(data: st.DataObject) -> None:
    h, w, channels = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)), data.draw(st.sampled_from((2, 4)))
    dtype = np.dtype(data.draw(st.sampled_from(("u1", "<u2", ">u2", "<f4", ">f4"))))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    a = random.integers(0, 256, (h, w, channels)).astype(dtype) / dtype.type(1 if dtype.kind == "u" else 255)
    a = a.astype(dtype)
    a[random.random((h, w)) < data.draw(st.floats(0, 1)), -1] = 0
    reach = data.draw(st.integers(0, 4))
    turned = data.draw(st.booleans())
    view = np.asfortranarray(a)[::-1, ::-1][::-1, ::-1] if turned else a
    pixels = _core.Pixels(view)
    seen = pixels.visible(reach)
    if (a[..., -1] != 0).all():
        assert seen is pixels
        return
    expected = spread(a, reach + _core.PIXEL_REACH)
    if dtype.kind == "f":
        np.testing.assert_allclose(seen.array, expected, rtol=0, atol=1e-7)
    else:
        assert np.array_equal(seen.array, expected)
    assert np.array_equal(pixels.array, a)


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32])
@pytest.mark.parametrize("device", [{}, {"self_ensemble": True}, {"executor": "reference"}])
def test_hidden_colours_change_nothing_that_is_seen(dtype: Any, device: dict[str, Any]) -> None:
    random = np.random.default_rng(3)
    a = random.integers(0, 256, (21, 17, 4)).astype(np.float64)
    a[4:15, 3:12, 3] = 0
    scale = {"u": 1, "f": 255}[np.dtype(dtype).kind]
    first, second = (a / scale).astype(dtype), (a / scale).astype(dtype)
    second[4:15, 3:12, :3] = np.array(255 / scale).astype(dtype)
    up = fastsr.load("srcnn_915_x3", **device)
    one, other = up.upscale(first), up.upscale(second)
    seen = one[..., 3] != 0
    assert np.array_equal(one[seen], other[seen])
    assert np.array_equal(other[~seen], np.where([True] * 3 + [False], second.repeat(3, 0).repeat(3, 1), 0)[~seen])


def test_hidden_memory_counts_against_the_limit() -> None:
    a = np.full((300, 300, 4), 128, np.uint8)
    shown, hidden = a.copy(), a.copy()
    hidden[10, 10, 3] = 0
    net = fastsr.load("annet_x2", threads=1)
    net.upscale(shown)  # packs its weights
    need = 0
    for limit in range(1_000_000, 40_000_000, 250_000):
        try:
            fastsr.load("annet_x2", threads=1, memory_limit=limit).upscale(shown)
            need = limit
            break
        except fastsr.LimitError:
            continue
    assert need
    with pytest.raises(fastsr.LimitError):
        fastsr.load("annet_x2", threads=1, memory_limit=need).upscale(hidden)
