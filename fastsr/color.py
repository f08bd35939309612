# SPDX-License-Identifier: Apache-2.0
"""RGB <-> YCbCr (ITU-R BT.601 with studio swing, as MATLAB's rgb2ycbcr), split for the network and joined after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastsr import _core
from fastsr.image import Picture

TO_YCBCR = (
    np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], dtype=np.float64) / 255
)
OFFSET = np.array([16.0, 128.0, 128.0]) / 255
TO_RGB = np.linalg.inv(TO_YCBCR)
THERE, BACK = (TO_YCBCR, OFFSET), (TO_RGB, -TO_RGB @ OFFSET)
"""(matrix, what is added): RGB to YCbCr and back"""


def rgb_to_ycbcr(
    rgb: np.ndarray,  # [3, H, W] f32 in [0, 1]
) -> np.ndarray:  # [3, H, W] f32
    """Y in [16, 235] / 255, Cb and Cr in [16, 240] / 255."""
    return _affine(rgb, *THERE)


def ycbcr_to_rgb(
    ycbcr: np.ndarray,  # [3, H, W] f32
) -> np.ndarray:  # [3, H, W] f32, not clipped
    return _affine(ycbcr, *BACK)


def _affine(x: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    out: np.ndarray = matrix.astype(np.float32) @ x.reshape(3, -1)
    out += offset.astype(np.float32)[:, None]
    return out.reshape(x.shape)


def split(picture: Picture, domain: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(planes for the network, chroma that goes by bicubic): Y of RGB, gray as it is, or RGB ("rgb")."""
    planes = picture.planes
    if domain == "rgb":
        return (np.repeat(planes, 3, 0) if planes.shape[0] == 1 else planes), None
    if planes.shape[0] == 1:
        return planes, None
    ycbcr = rgb_to_ycbcr(planes)
    return ycbcr[:1], ycbcr[1:]


def join(picture: Picture, out: np.ndarray, chroma: np.ndarray | None, threads: int) -> Picture:
    """The upscaled picture: chroma and alpha enlarged by bicubic to the size of `out`."""
    h, w = out.shape[1:]
    if chroma is not None:
        out = ycbcr_to_rgb(
            np.concatenate([out, _core.resize_bicubic(np.ascontiguousarray(chroma), h, w, threads=threads)])
        )
    elif picture.planes.shape[0] == 1 and out.shape[0] == 3:
        out = out.mean(0, keepdims=True)
    alpha = picture.alpha
    if alpha is not None:
        alpha = _core.resize_bicubic(np.ascontiguousarray(alpha), h, w, threads=threads)
    return replace(picture, planes=out, alpha=alpha)
