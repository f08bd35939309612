# SPDX-License-Identifier: Apache-2.0
"""Files made by hand, and independent readers of what was written. Loaded by `fastsr.testing.script`: tests are no package."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def photo(channels: int, dtype: object, top: float, low: float = 0.0, h: int = 20, w: int = 28) -> np.ndarray:
    """[h, w, channels], smooth, other in each channel."""
    y, x = np.mgrid[:h, :w]
    a = np.stack([0.5 + 0.4 * np.sin(x / 7 + y / 9 + k) for k in range(channels)], -1) * (top - low) + low
    return (a if np.dtype(dtype).kind == "f" else np.round(a)).astype(dtype)  # type: ignore[call-overload,no-any-return]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path | str, a: np.ndarray, extra: bytes = b"") -> None:
    """[H, W, 1 to 4] of uint8 or uint16, nothing filtered."""
    h, w, channels = a.shape
    bits = 8 * a.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in a)
    head = struct.pack(">IIBBBBB", w, h, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    data = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def chunks(path: Path | str) -> list[tuple[bytes, bytes]]:
    """Of a PNG; every checksum is checked."""
    data, at, found = Path(path).read_bytes(), 8, []
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    return found


def read_png(path: Path | str) -> np.ndarray:  # [H, W, C]
    """By the specification, a byte at a time."""
    found = chunks(path)
    w, h, bits, colour = struct.unpack(">IIBB", found[0][1][:10])
    channels, size = {0: 1, 4: 2, 2: 3, 6: 4}[colour], bits // 8
    raw = zlib.decompress(b"".join(body for kind, body in found if kind == b"IDAT"))
    step, stride = channels * size, w * channels * size
    out, above = [], [0] * stride
    for y in range(h):
        line = list(raw[y * (stride + 1) : (y + 1) * (stride + 1)])
        kind, row = line[0], line[1:]
        assert kind in (0, 1, 2)
        for i in range(stride):
            left = row[i - step] if i >= step else 0
            row[i] = (row[i] + (0, left, above[i])[kind]) & 255
        above = row
        out.append(bytes(row))
    return np.frombuffer(b"".join(out), ">u2" if size == 2 else np.uint8).reshape(h, w, channels)


def read_any(path: Path | str) -> np.ndarray:  # [H, W, C]
    """By a reader that is not ours."""
    if str(path).endswith((".tif", ".tiff")):
        tifffile = pytest.importorskip("tifffile")
        a = np.asarray(tifffile.imread(path, key=0))
    elif str(path).endswith(".png"):
        return read_png(path)
    else:
        with Image.open(path) as im:
            a = np.asarray(im)
    return a[..., None] if a.ndim == 2 else a


def halved(a: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    h, w, c = a.shape
    return a.astype(np.float64).reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))
