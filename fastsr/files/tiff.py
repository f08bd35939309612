# SPDX-License-Identifier: Apache-2.0
"""TIFF: any sample type, any number of bands, strips or tiles, classic or BigTIFF, read and written a few rows at a time.

Pillow reads TIFFs of 8 bits. What it does not (16-bit RGB, signed and float samples, more bands) is read here: directories by
this module, LZW and what else libtiff knows by Pillow, one segment at a time. Kinds that only libtiff can turn into pixels
(JPEG, fax, YCbCr, CMYK) go to Pillow whole.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from fastsr.errors import InputError, LimitError
from fastsr.files import deflate
from fastsr.files.picture import Frame

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
VALUES = 1 << 24
"""values of a tag: the segments of the largest file that is sensible"""
PAGES = 65536
DEFLATE = (8, 32946)
BY_LIBTIFF = (5, 32773, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard: bytes to bytes
GEO = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
BIG = 0xF0000000
"""bytes of pixels beyond which offsets need 64 bits"""


class Directory:
    """The tags of a page."""

    def __init__(self, order: str, tags: dict[int, tuple[int, Any]]) -> None:
        self.order, self.tags = order, tags

    def get(self, tag: int, default: Any = None) -> Any:
        """All values of a tag: a tuple of numbers, or bytes."""
        return self.tags[tag][1] if tag in self.tags else default

    def one(self, tag: int, default: int = 0) -> int:
        values = self.get(tag)
        return int(values[0]) if values else default


def directories(file: BinaryIO) -> Iterator[tuple[Directory, int]]:
    """Every page's tags, with where they lie."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise InputError("not a TIFF")
    version = struct.unpack(order + "H", head[2:4])[0]
    big = version == 43
    at = struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "I", head[4:8])[0]
    seen: set[int] = set()
    while at and at not in seen and len(seen) < PAGES:
        seen.add(at)
        page, after = _directory(file, order, at, big)
        yield page, at
        at = after


def _exact(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    data = file.read(count)
    if len(data) < count:
        raise InputError("cut short")
    return data


def _directory(file: BinaryIO, order: str, at: int, big: bool) -> tuple[Directory, int]:
    wide, entry = (8, 20) if big else (2, 12)
    count = struct.unpack(order + ("Q" if big else "H"), _exact(file, at, wide))[0]
    if count > 4096:
        raise InputError(f"has a page of {count} tags")
    place = "Q" if big else "I"
    size = struct.calcsize(place)
    data = _exact(file, at + wide, count * entry + size)
    tags: dict[int, tuple[int, Any]] = {}
    for i in range(count):
        tag, kind, n = struct.unpack(order + "HH" + place, data[i * entry : i * entry + 4 + size])
        value = data[i * entry + 4 + size : (i + 1) * entry]
        if kind not in SIZES or tag in tags:
            continue
        if n > VALUES:
            raise LimitError(f"has {n} values of tag {tag}, above the limit of {VALUES}")
        length = n * SIZES[kind]
        if length > size:
            value = _exact(file, struct.unpack(order + place, value)[0], length)
        tags[tag] = kind, _values(order, kind, value[:length], n)
    return Directory(order, tags), struct.unpack(order + place, data[count * entry :])[0]


def _values(order: str, kind: int, data: bytes, n: int) -> Any:
    if kind in (2, 7):
        return data
    if kind in (5, 10):
        pairs = struct.unpack(f"{order}{2 * n}{'I' if kind == 5 else 'i'}", data)
        return tuple(a / b if b else 0.0 for a, b in zip(pairs[::2], pairs[1::2], strict=True))
    return struct.unpack(f"{order}{n}{CODES[kind]}", data)


class Page:
    """One picture of a TIFF, of which any rows can be read."""

    def __init__(self, file: BinaryIO, page: Directory) -> None:
        self._file, self.tags = file, page
        self.width, self.height = page.one(256), page.one(257)
        if self.width < 1 or self.height < 1:
            raise InputError(f"has a page of {self.width}x{self.height} pixels")
        self.bits = tuple(page.get(258, (1,)))
        self.bands = page.one(277, 1)
        self.photometric, self.compression = page.one(262, BLACK_IS_ZERO), page.one(259, 1)
        self._planar, self._predictor = page.one(284, 1) == 2, page.one(317, 1)
        formats = set(page.get(339, (1,)))
        kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(next(iter(formats))) if len(formats) == 1 else None
        size = self.bits[0] // 8
        self.whole = len(set(self.bits)) == 1 and self.bits[0] % 8 == 0
        self.dtype = None
        if kind and self.whole and (size in (1, 2, 4, 8) and (kind != "f" or size > 1)):
            self.dtype = np.dtype(f"{page.order}{kind}{size}")
        words = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
        self._samples = "/".join(words.get(f, str(f)) for f in sorted(formats)) + " samples"
        self._tiled = 322 in page.tags
        rows = min(page.one(278, self.height) or self.height, self.height)
        self._tile = (page.one(323), page.one(322)) if self._tiled else (rows, self.width)
        self._offsets = page.get(324 if self._tiled else 273, ())
        self._counts = page.get(325 if self._tiled else 279, ())
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0))

    @property
    def ours(self) -> bool:
        """Whether it is read here and not by Pillow."""
        known = self.compression in (1, *DEFLATE, *BY_LIBTIFF)
        plain = self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) or (self.photometric == RGB and self.bands >= 3)
        return self.dtype is not None and known and plain and self._predictor in (1, 2, 3) and self.bands <= 1024

    @property
    def what(self) -> str:
        return (
            f"photometric {self.photometric}, compression {self.compression}, "
            f"{self.bands} bands of {'/'.join(map(str, dict.fromkeys(self.bits)))} bits, {self._samples}"
        )

    @property
    def colors(self) -> int:
        return 3 if self.photometric == RGB else 1

    @property
    def alpha(self) -> int:
        """0: none; 1: premultiplied; 2: not."""
        extra = self.tags.get(338, ())
        return int(extra[0]) if extra and self.bands > self.colors and extra[0] in (1, 2) else 0

    def rows(self, begin: int, end: int) -> np.ndarray:  # [n, W, bands], native byte order
        if self.dtype is None:
            raise InputError(self.what)
        th, tw = self._tile
        if th < 1 or tw < 1:
            raise InputError("has tiles of no size")
        across, down = -(-self.width // tw), -(-self.height // th)
        planes = self.bands if self._planar else 1
        if len(self._offsets) < across * down * planes or len(self._counts) < len(self._offsets):
            raise InputError(f"lists {len(self._offsets)} of its {across * down * planes} segments")
        out = np.empty((end - begin, self.width, self.bands), self.dtype.newbyteorder("="))
        each = self.bands // planes
        for row in range(begin // th, -(-end // th)):
            for plane in range(planes):
                for column in range(across):
                    tile = self._segment((plane * down + row) * across + column, row, each)
                    y0, y1 = max(begin, row * th), min(end, (row + 1) * th, self.height)
                    x = slice(column * tw, min((column + 1) * tw, self.width))
                    part = tile[y0 - row * th : y1 - row * th, : x.stop - x.start]
                    out[y0 - begin : y1 - begin, x, plane * each : (plane + 1) * each] = part
        if self.photometric == WHITE_IS_ZERO:
            top = np.array(-1).astype(out.dtype) if out.dtype.kind == "u" else out.dtype.type(1)
            if out.dtype.kind != "i":
                out[..., 0] = top - out[..., 0]
        return out

    def _segment(self, number: int, row: int, bands: int) -> np.ndarray:
        if self._kept[0] == number:
            return self._kept[1]
        th, tw = self._tile
        rows = th if self._tiled else min(th, self.height - row * th)
        assert self.dtype is not None
        size = rows * tw * bands * self.dtype.itemsize
        if size > 1 << 32:
            raise LimitError(f"has segments of {size} bytes")
        count = int(self._counts[number])
        packed = _exact(self._file, int(self._offsets[number]), min(count, 2 * size + 65536))
        data = _unpack(packed, self.compression, size, rows)
        if len(data) < size:
            raise InputError("cut short")
        flat = np.frombuffer(data, np.uint8, size).reshape(rows, tw * bands * self.dtype.itemsize)
        array = _predicted(flat, self._predictor, self.dtype, rows, tw, bands)
        if not self._tiled:
            self._kept = number, array
        return array


def _unpack(packed: bytes, compression: int, size: int, rows: int) -> bytes:
    if compression == 1:
        return packed
    if compression in DEFLATE:
        try:
            return zlib.decompressobj().decompress(packed, size)
        except zlib.error as e:
            raise ValueError(f"broken: {e}") from None
    from PIL import Image

    # A TIFF of one strip of gray bytes, which libtiff opens for us.
    width = size // rows
    entries = {256: width, 257: rows, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: rows, 279: len(packed)}
    body = packed + b"\0" * (len(packed) % 2)
    ifd = struct.pack("<H", len(entries))
    ifd += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()) + bytes(4)
    small = io.BytesIO(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + ifd)
    with Image.open(small, formats=("TIFF",)) as image:
        return image.tobytes()


def _predicted(
    flat: np.ndarray,  # [rows, bytes] u8
    predictor: int,
    dtype: np.dtype[Any],
    rows: int,
    width: int,
    bands: int,
) -> np.ndarray:  # [rows, width, bands]
    if predictor == 3:  # of floats: bytes by significance, differences between neighbours
        size = dtype.itemsize
        summed = np.add.accumulate(flat.reshape(rows, -1, bands), axis=1, dtype=np.uint8).reshape(rows, size, -1)
        return np.ascontiguousarray(summed.transpose(0, 2, 1)).view(f">f{size}").reshape(rows, width, bands)
    array = flat.view(dtype).reshape(rows, width, bands)
    if predictor == 2:
        native = dtype.newbyteorder("=")
        return np.add.accumulate(array.astype(native), axis=1, dtype=native)
    return array


def frame(page: Page) -> Frame:
    """The whole page, not turned."""
    return as_frame(page, page.rows(0, page.height))


def as_frame(page: Page, array: np.ndarray) -> Frame:
    if page.alpha == 1:
        array = straight(array, page.colors)
    return Frame(array, page.colors, bool(page.alpha))


def straight(array: np.ndarray, colors: int) -> np.ndarray:
    """Premultiplied colours divided by their alpha."""
    top = np.iinfo(array.dtype).max if array.dtype.kind != "f" else 1.0
    alpha = array[..., colors : colors + 1].astype(np.float64)
    full = np.divide(array[..., :colors] * float(top), alpha, out=np.zeros(array[..., :colors].shape), where=alpha > 0)
    out = array.copy()
    if array.dtype.kind != "f":
        full = np.clip(np.rint(full), 0, top)
    out[..., :colors] = full
    return out


@dataclass(frozen=True)
class Tag:
    number: int
    kind: int
    values: Any  # a sequence of numbers, or bytes

    def data(self) -> tuple[int, bytes]:
        if isinstance(self.values, bytes):
            return len(self.values) // SIZES[self.kind], self.values
        if self.kind in (5, 10):
            pairs = [part for value in self.values for part in _ratio(value)]
            return len(self.values), struct.pack(f"<{len(pairs)}{'I' if self.kind == 5 else 'i'}", *pairs)
        return len(self.values), struct.pack(f"<{len(self.values)}{CODES[self.kind]}", *self.values)


def _ratio(value: float) -> tuple[int, int]:
    return (int(value), 1) if value == int(value) else (round(value * 10000), 10000)


class Writer:
    """A TIFF in the making: pages, of which the rows come in order. Deflate, strips, little-endian."""

    def __init__(self, file: BinaryIO, size: int, threads: int = 2) -> None:
        """size: bytes of all pixels, about."""
        self._file, self._big = file, size > BIG
        self._at, self._link = file.tell(), 0
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="fastsr-tiff")
        self._threads = max(1, threads)
        self._write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if self._big else struct.pack("<2sHI", b"II", 42, 0))
        self._link = 8 if self._big else 4

    def _write(self, data: bytes) -> int:
        begin = self._at
        self._file.write(data)
        self._at += len(data)
        return begin

    def begin(self, width: int, height: int, bands: int, dtype: np.dtype[Any], colors: int, alpha: bool) -> None:
        self._width, self._height, self._bands, self._dtype = width, height, bands, dtype
        self._colors, self._alpha = colors, alpha
        self._each = max(1, min(height, deflate.STRIP // max(1, width * bands * dtype.itemsize)))
        self._rest = np.empty((0, width, bands), dtype)
        self._offsets: list[int] = []
        self._counts: list[int] = []

    def rows(self, array: np.ndarray) -> None:
        """[n, W, bands], below those before."""
        array = np.concatenate([self._rest, array]) if len(self._rest) else array
        done = len(self._offsets) * self._each
        ready = len(array) if done + len(array) >= self._height else len(array) // self._each * self._each
        strips = (array[y : y + self._each] for y in range(0, ready, self._each))
        for packed in deflate.in_order(self._pack, strips, self._pool, self._threads + 1):
            self._offsets.append(self._write(packed))
            self._counts.append(len(packed))
        self._rest = array[ready:].copy()

    def _pack(self, rows: np.ndarray) -> bytes:
        little = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        if rows.dtype.kind != "f":  # differences to the left: predictor 2
            out = little.copy()
            np.subtract(little[:, 1:], little[:, :-1], out=out[:, 1:])
            little = out
        return deflate.whole(little.tobytes())

    def page(self, tags: list[Tag], directories: dict[int, Any]) -> None:
        """End a page. directories: Pillow's of Exif and GPS, by the tag that points at them."""
        for number, ifd in directories.items():
            self._write(b"\0" * (self._at % 2))
            tags = [*tags, Tag(number, 4, (self._write(ifd.tobytes(self._at)),))]
        kind = {"u": 1, "i": 2, "f": 3}[self._dtype.kind]
        place = 16 if self._big else 4
        extra = self._bands - self._colors
        own = [
            Tag(256, 4, (self._width,)),
            Tag(257, 4, (self._height,)),
            Tag(258, 3, (8 * self._dtype.itemsize,) * self._bands),
            Tag(259, 3, (8,)),
            Tag(262, 3, (RGB if self._colors == 3 else BLACK_IS_ZERO,)),
            Tag(273, place, self._offsets),
            Tag(274, 3, (1,)),
            Tag(277, 3, (self._bands,)),
            Tag(278, 4, (self._each,)),
            Tag(279, place, self._counts),
            Tag(284, 3, (1,)),
            Tag(317, 3, (1 if kind == 3 else 2,)),
            Tag(339, 3, (kind,) * self._bands),
        ]
        if extra:
            own.append(Tag(338, 3, (2 if self._alpha else 0, *(0,) * (extra - 1))))
        mine = {tag.number for tag in own}
        self._directory(sorted(own + [t for t in tags if t.number not in mine], key=lambda t: t.number))

    def _directory(self, tags: list[Tag]) -> None:
        small, code = (8, "Q") if self._big else (4, "I")
        entries = []
        for tag in tags:
            count, data = tag.data()
            if len(data) > small:
                self._write(b"\0" * (self._at % 2))
                data = struct.pack("<" + code, self._write(data))
            entries.append(struct.pack("<HH" + code, tag.number, tag.kind, count) + data.ljust(small, b"\0"))
        self._write(b"\0" * (self._at % 2))
        begin = self._write(struct.pack("<Q" if self._big else "<H", len(entries)) + b"".join(entries))
        link = self._write(struct.pack("<" + code, 0))
        self._file.seek(self._link)
        self._file.write(struct.pack("<" + code, begin))
        self._file.seek(0, os.SEEK_END)
        self._link = link

    def end(self) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
