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

GRAY = {"Set14/bridge"}
"""gray in the published set, where gray is Y; a copy in a format without gray, as WebP, cannot tell by itself"""

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


class Runs(Protocol):
    """What is evaluated: an Upscaler, or anything that enlarges planes."""

    @property
    def scale(self) -> int: ...

    @property
    def domain(self) -> str: ...

    def run(self, planes: np.ndarray) -> np.ndarray: ...


class Bicubic:
    """The baseline of every table."""

    name = "bicubic"
    domain = "y"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def run(self, planes: np.ndarray) -> np.ndarray:
        return _core.resize_bicubic(planes, planes.shape[1] * self.scale, planes.shape[2] * self.scale)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def load_rgb(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 of an image file, or [H, W] when it is gray."""
    img = image.read(path)
    if img.mode == "I;16":
        return (np.asarray(img) / 257 + 0.5).astype(np.uint8)
    if img.mode in ("L", "1", "LA"):
        return np.asarray(img.convert("L"))
    rgb = np.asarray(img.convert("RGB"))
    return rgb[..., 0] if f"{path.parent.name}/{path.stem}" in GRAY else rgb


def luma(img: np.ndarray) -> np.ndarray:
    """Y [H, W] in [16, 235], float64 and not rounded, of uint8 RGB; gray images are Y already."""
    if img.ndim == 2:
        return img.astype(np.float64)
    y: np.ndarray = 16 + img.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
    return y


def load_y(path: Path) -> np.ndarray:
    """Rounded Y [H, W] uint8 of an image file; gray images are Y already."""
    return np.floor(luma(load_rgb(path)) + 0.5).astype(np.uint8)


def _run_y(model: Runs, path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """(Y of the original, Y of the result, seconds): LR not quantised."""
    s = model.scale
    hr = metrics.modcrop(load_y(path), s)
    x = (hr.astype(np.float32) / 255)[None]
    lr = _core.resize_bicubic(x, hr.shape[0] // s, hr.shape[1] // s, scale=1 / s)
    begin = time.perf_counter()
    out = model.run(lr)[0]
    return hr, metrics.to_uint8(out), time.perf_counter() - begin


def _run_rgb(model: Runs, path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """The same for models on RGB: LR (between its two passes too, as MATLAB does) and output quantised, then Y."""
    s = model.scale
    hr = metrics.modcrop(load_rgb(path), s)
    x = hr.astype(np.float32).reshape(*hr.shape[:2], -1).transpose(2, 0, 1) / 255
    x = np.repeat(x, 3, 0) if x.shape[0] == 1 else x
    for h, w in ((hr.shape[0] // s, hr.shape[1]), (hr.shape[0] // s, hr.shape[1] // s)):
        x = metrics.to_uint8(_core.resize_bicubic(np.ascontiguousarray(x), h, w)).astype(np.float32) / 255
    begin = time.perf_counter()
    out = model.run(x)
    seconds = time.perf_counter() - begin
    made = metrics.to_uint8(out).transpose(1, 2, 0)
    return luma(hr), luma(made) if hr.ndim == 3 else made.mean(2), seconds


def evaluate_folder(model: Runs, folder: str | Path, *, name: str = "") -> dict[str, Any]:
    """Mean PSNR and SSIM of Y over the images of one folder.

    Returns {model, scale, data, images, psnr_y, ssim_y, seconds}; seconds is the time inside the model, psnr_y None
    when every pixel is equal. Raises InputError when the folder has no images or one of them cannot be measured.

    >>> evaluate_folder(fastsr.load("annet_x3"), "Set5")["psnr_y"]
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
        try:
            hr, out, took = (_run_y if model.domain == "y" else _run_rgb)(model, path)
            a, b = metrics.shave(hr, s), metrics.shave(out, s)
            psnrs.append(metrics.psnr(a, b))
            ssims.append(metrics.ssim(a, b))
        except InputError as e:
            raise InputError(str(e) if str(path) in str(e) else f"{path}: {e}") from None
        seconds += took
    mean = float(np.mean(psnrs))
    return {
        "model": name or getattr(model, "name", ""),
        "scale": s,
        "data": folder.resolve().name,
        "images": len(paths),
        "psnr_y": round(mean, 4) if np.isfinite(mean) else None,
        "ssim_y": round(float(np.mean(ssims)), 4),
        "seconds": round(seconds, 3),
    }


def evaluate(model: Runs, data: str | Path, *, name: str = "") -> list[dict[str, Any]]:
    """evaluate_folder for `data`, or for each of its sub-folders that holds images.

    >>> evaluate(fastsr.load("annet_x3"), "data/test")
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"{data}: no such folder")
    folders = [data] if files(data) else [p for p in sorted(data.iterdir()) if p.is_dir() and files(p)]
    if not folders:
        raise InputError(f"{data}: holds no images and no folders of images")
    return [evaluate_folder(model, folder, name=name) for folder in folders]
