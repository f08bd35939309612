# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM as the SR literature measures them: on 8-bit Y, a border of `scale` pixels left out."""

from __future__ import annotations

import numpy as np

from fastsr.errors import InputError


def modcrop(img: np.ndarray, scale: int) -> np.ndarray:
    """Cut [H, W, ...] to multiples of `scale`. Raises InputError when nothing is left."""
    h, w = (n - n % scale for n in img.shape[:2])
    if h == 0 or w == 0:
        raise InputError(f"an image of {img.shape[1]}x{img.shape[0]} pixels is too small for scale {scale}")
    return img[:h, :w]


def shave(img: np.ndarray, border: int) -> np.ndarray:
    """Leave out `border` pixels on each side of [H, W]; images too small for that stay whole."""
    if min(img.shape) <= 2 * border or border == 0:
        return img
    return img[border:-border, border:-border]


def to_uint8(img: np.ndarray) -> np.ndarray:
    """[0, 1] float to 8 bit, rounding half up as MATLAB does."""
    out: np.ndarray = np.floor(np.clip(img, 0, 1) * 255 + 0.5).astype(np.uint8)
    return out


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """10 log10(255^2 / mse) of two uint8 images; infinite when equal."""
    mse = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255**2 / mse))


def _gaussian() -> np.ndarray:
    x = np.arange(11) - 5.0
    g = np.exp(-(x**2) / (2 * 1.5**2))
    out: np.ndarray = g / g.sum()
    return out


def _blur(x: np.ndarray) -> np.ndarray:
    """11 x 11 Gaussian of sigma 1.5 where it fits."""
    g = _gaussian()
    rows = sum(g[k] * x[k : x.shape[0] - 10 + k] for k in range(11))
    assert isinstance(rows, np.ndarray)
    out = sum(g[k] * rows[:, k : rows.shape[1] - 10 + k] for k in range(11))
    assert isinstance(out, np.ndarray)
    return out


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of two uint8 images [H, W] of at least 11 x 11."""
    if min(a.shape) < 11:
        raise InputError(f"SSIM needs at least 11x11 pixels, got {a.shape[1]}x{a.shape[0]}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = _blur(x), _blur(y)
    xx, yy, xy = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    return float(np.mean((2 * mx * my + c1) * (2 * xy + c2) / ((mx * mx + my * my + c1) * (xx + yy + c2))))
