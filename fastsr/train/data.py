# SPDX-License-Identifier: Apache-2.0
"""Training images: read, reduced to Y, degraded by MATLAB bicubic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastsr import _core
from fastsr.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def files(folders: Sequence[str | Path]) -> list[Path]:
    """The image files under `folders`, sorted, so that a seed means the same everywhere."""
    found = [p for folder in folders for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"no images under {', '.join(map(str, folders))}: give folders with PNG, JPEG or WebP files")
    return found


def luma(path: Path) -> np.ndarray:
    """Y of MATLAB's rgb2ycbcr, rounded to 8 bit, as float32 [H, W] in [0, 1]."""
    from PIL import Image

    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"), dtype=np.float64)
    y = 16 + (rgb @ np.array([65.481, 128.553, 24.966])) / 255
    level: np.ndarray = (np.floor(y + 0.5) / 255).astype(np.float32)
    return level


def planes(path: Path, channels: int) -> np.ndarray:
    """Y (channels = 1) or RGB (3) as float32 [channels, H, W] in [0, 1]."""
    if channels == 1:
        return luma(path)[None]
    from PIL import Image

    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    found: np.ndarray = np.ascontiguousarray(rgb.transpose(2, 0, 1)) / 255
    return found


def shrink(
    y: np.ndarray,  # [H, W]
    factor: float,
) -> np.ndarray:
    """imresize(y, factor), as the A+ authors make their twelve sizes."""
    if factor == 1.0:
        return y
    h, w = (int(np.ceil(n * factor)) for n in y.shape)
    smaller: np.ndarray = np.clip(_core.resize_bicubic(y[None], h, w, scale=factor)[0], 0, 1)
    return smaller


def degrade(
    hr: np.ndarray,  # [H, W] or [C, H, W]
    scale: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(HR cropped to a multiple of scale [..., H', W'], its bicubic reduction [..., H' / scale, W' / scale])."""
    h, w = (n - n % scale for n in hr.shape[-2:])
    hr = np.ascontiguousarray(hr[..., :h, :w])
    lr = _core.resize_bicubic(hr.reshape(-1, h, w), h // scale, w // scale, scale=1 / scale)
    return hr, lr.reshape(*hr.shape[:-2], *lr.shape[1:])


def pair(
    y: np.ndarray,  # [H, W]
    scale: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(HR cropped to a multiple of scale, its bicubic reduction enlarged again), both [H', W']."""
    hr, lr = degrade(y, scale)
    return hr, _core.resize_bicubic(lr[None], *hr.shape)[0]
