# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from fastsr import metrics
from fastsr.errors import InputError
from fastsr.testing import rng


def pair(h: int = 20, w: int = 17) -> tuple[np.ndarray, np.ndarray]:
    a = rng(0).integers(0, 256, (h, w), dtype=np.uint8)
    b = np.clip(a + rng(1).integers(-20, 21, a.shape), 0, 255).astype(np.uint8)
    return a, b


def test_psnr() -> None:
    a = np.zeros((4, 4), np.uint8)
    assert metrics.psnr(a, a) == float("inf")
    assert metrics.psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)
    assert metrics.psnr(a, a + 255) == pytest.approx(0)


def test_ssim_is_its_formula() -> None:
    """The window taken one place at a time, as Wang et al. write it."""
    a, b = pair()
    i = np.arange(11) - 5
    window = np.exp(-(i[:, None] ** 2 + i[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(10):
        for x in range(7):
            p, q = (v[y : y + 11, x : x + 11].astype(float) for v in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert metrics.ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)
    assert metrics.ssim(a, a) == pytest.approx(1)
    with pytest.raises(InputError, match="11x11"):
        metrics.ssim(a[:10], b[:10])


def test_crops() -> None:
    a, _ = pair()
    assert metrics.modcrop(a, 3).shape == (18, 15)
    assert metrics.modcrop(np.zeros((5, 8, 3)), 4).shape == (4, 8, 3)
    assert metrics.shave(a, 3).shape == (14, 11)
    assert metrics.shave(a, 0).shape == a.shape
    assert metrics.shave(a, 9).shape == a.shape
    with pytest.raises(InputError, match="2x20 pixels is too small for scale 3"):
        metrics.modcrop(a[:, :2], 3)


def test_rounding_is_half_up_and_clipped() -> None:
    x = np.array([-1, 0, 0.5 / 255, 1.5 / 255, 2.4 / 255, 1, 2])
    assert metrics.to_uint8(x).tolist() == [0, 0, 1, 2, 2, 255, 255]
