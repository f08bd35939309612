# SPDX-License-Identifier: Apache-2.0
"""What a file holds: pictures as the file's own numbers, and what is said about them beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One picture, turned as it is seen."""

    array: np.ndarray  # [H, W, C] of any integer or float dtype, this machine's byte order
    colors: int  # 1 or 3: the first channels
    alpha: bool = False
    """whether the channel after the colours is alpha, not premultiplied; all that follow are bands on their own"""
    milliseconds: float = 0
    """how long an animation shows it"""

    @property
    def plain(self) -> bool:
        """Whether there are no further bands."""
        return int(self.array.shape[2]) == self.colors + self.alpha

    @property
    def what(self) -> str:
        """In words: "16-bit gray with alpha"."""
        kind, bits = self.array.dtype.kind, 8 * self.array.dtype.itemsize
        depth = f"float{bits}" if kind == "f" else f"signed {bits}-bit" if kind == "i" else f"{bits}-bit"
        if not self.plain:
            return f"{depth} {self.array.shape[2]}-band"
        return f"{depth} {'gray' if self.colors == 1 else 'RGB'}{' with alpha' if self.alpha else ''}"


@dataclass(frozen=True)
class Meta:
    """What is said about a picture. All of it is what the file said, but that the picture is upright now."""

    icc: bytes | None = None
    exif: bytes | None = None  # a TIFF structure, without "Exif\0\0"
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[bytes, bytes], ...] = ()
    """PNG's chunks tEXt, zTXt and iTXt as they are"""
    colour: tuple[tuple[bytes, bytes], ...] = ()
    """PNG's chunks gAMA, cHRM, sRGB, cICP, mDCV and cLLI as they are"""
    comment: bytes | None = None
    iptc: bytes | None = None
    geo: tuple[tuple[int, int, tuple[Any, ...] | bytes], ...] = ()
    """GeoTIFF's tags: number, type, values"""


@dataclass
class Picture:
    """An opened file."""

    name: str
    kind: str  # Pillow's name of the format
    width: int
    height: int
    meta: Meta
    count: int  # frames, or pages
    frames: Iterator[Frame]
    """decoded as they are asked for; raises FastsrError"""
    animated: bool = False
    loop: int = 0
    """times that an animation is shown; 0: for ever"""
    notes: list[str] = field(default_factory=list)
    """what of the file is left out or changed, a line each"""


ENDINGS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pnm": "PPM",
    ".gif": "GIF",
    ".avif": "AVIF",
    ".tga": "TGA",
}
"""of names that can be written"""
READ_ENDINGS = (*ENDINGS, ".dds", ".pfm", ".mpo", ".jxl", ".heic", ".heif", ".jp2", ".dib")
"""of the files that are taken from a folder"""


def kind_of(path: str | Path) -> str | None:
    """The format that a name asks for."""
    return ENDINGS.get(Path(path).suffix.lower())
