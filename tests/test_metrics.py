# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and the protocol: known values, and the published figures of bicubic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastsr import metrics
from fastsr.errors import InputError
from fastsr.evaluate import evaluate_folder
from fastsr.evaluate.protocol import Bicubic


def test_psnr() -> None:
    a = np.full((20, 20), 100, np.uint8)
    assert metrics.psnr(a, a) == float("inf")
    assert metrics.psnr(a, a + 10) == pytest.approx(10 * np.log10(255**2 / 100))


def test_ssim() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (40, 40), dtype=np.uint8)
    assert metrics.ssim(a, a) == pytest.approx(1)
    flat, other = np.full((20, 20), 100, np.uint8), np.full((20, 20), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert metrics.ssim(flat, other) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1))
    with pytest.raises(InputError):
        metrics.ssim(a[:5], a[:5])


def test_crops() -> None:
    a = np.zeros((10, 11), np.uint8)
    assert metrics.modcrop(a, 3).shape == (9, 9)
    assert metrics.shave(a, 2).shape == (6, 7)
    assert metrics.to_uint8(np.array([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]
    with pytest.raises(InputError):
        metrics.modcrop(a, 12)


@pytest.mark.parametrize(
    ("data", "scale", "published"),
    [
        ("Set5", 2, 33.66),
        ("Set5", 3, 30.39),
        ("Set5", 4, 28.42),
        ("Set14", 2, 30.23),
        ("Set14", 3, 27.54),
        ("Set14", 4, 26.00),
    ],
)
def test_bicubic_gives_the_published_figures(shared: Path, data: str, scale: int, published: float) -> None:
    row = evaluate_folder(Bicubic(scale), shared / "data/test" / data)
    assert row["psnr_y"] == pytest.approx(published, abs=0.006)
