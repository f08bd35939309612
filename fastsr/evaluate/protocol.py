# SPDX-License-Identifier: Apache-2.0
"""Protocol "y": modcrop; Y of rgb2ycbcr on 8 bit, rounded; LR by MATLAB bicubic, not quantised; output rounded to
8 bit; a border of `scale` pixels left out; mean over images. Models on RGB: LR and output quantised, then Y."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastsr import _core, image, metrics
from fastsr.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


class Runs(Protocol):
    """What is evaluated: an Upscaler, or anything that enlarges planes."""

    @property
    def scale(self) -> int: ...

    def run(self, planes: np.ndarray) -> np.ndarray: ...


class Bicubic:
    """The baseline of every table."""

    name = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def run(self, planes: np.ndarray) -> np.ndarray:
        return _core.resize_bicubic(planes, planes.shape[1] * self.scale, planes.shape[2] * self.scale)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def load_y(path: Path) -> np.ndarray:
    """Rounded Y [H, W] uint8 of an image file; gray images are Y already."""
    img = image.read(path)
    if img.mode in ("L", "1", "LA", "I;16"):
        return np.asarray(img.convert("L"))
    rgb = np.asarray(img.convert("RGB"), dtype=np.float64)
    if (rgb == rgb[..., :1]).all():  # a gray image in a format without gray, as WebP
        return rgb[..., 0].astype(np.uint8)
    y = 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255
    return np.floor(y + 0.5).astype(np.uint8)


def evaluate_folder(model: Runs, folder: str | Path, *, name: str = "") -> dict[str, Any]:
    """Mean PSNR and SSIM of Y over the images of one folder.

    Returns {model, scale, data, images, psnr_y, ssim_y, seconds}; seconds is the time inside the model.
    Raises InputError when the folder has no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = files(folder)
    if not paths:
        raise InputError(f"{folder}: holds no images")
    s = model.scale
    psnrs, ssims, seconds = [], [], 0.0
    for path in paths:
        hr = metrics.modcrop(load_y(path), s)
        x = (hr.astype(np.float32) / 255)[None]
        lr = _core.resize_bicubic(x, hr.shape[0] // s, hr.shape[1] // s, scale=1 / s)
        begin = time.perf_counter()
        out = model.run(lr)[0]
        seconds += time.perf_counter() - begin
        a, b = metrics.shave(hr, s), metrics.shave(metrics.to_uint8(out), s)
        psnrs.append(metrics.psnr(a, b))
        ssims.append(metrics.ssim(a, b))
    return {
        "model": name or getattr(model, "name", ""),
        "scale": s,
        "data": folder.name,
        "images": len(paths),
        "psnr_y": round(float(np.mean(psnrs)), 4),
        "ssim_y": round(float(np.mean(ssims)), 4),
        "seconds": round(seconds, 3),
    }


def evaluate(model: Runs, data: str | Path, *, name: str = "") -> list[dict[str, Any]]:
    """evaluate_folder for `data`, or for each of its sub-folders that holds images."""
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"{data}: no such folder")
    folders = [data] if files(data) else [p for p in sorted(data.iterdir()) if p.is_dir() and files(p)]
    if not folders:
        raise InputError(f"{data}: holds no images and no folders of images")
    return [evaluate_folder(model, folder, name=name) for folder in folders]
