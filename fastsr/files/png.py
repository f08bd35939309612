# SPDX-License-Identifier: Apache-2.0
"""PNG: written a band of rows at a time, 8 or 16 bits, one picture or an animation; read a strip at a time when it is huge."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from fastsr.errors import InputError
from fastsr.files import deflate

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
TEXT = (b"tEXt", b"zTXt", b"iTXt")
COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
CHUNK_LIMIT = 64 << 20
"""bytes of what is said beside the pixels"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", deflate.crc32(data, deflate.crc32(kind)))


def walk(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its data begins, length) of every chunk from the signature on, as far as the file is whole."""
    at = len(SIGNATURE)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += length + 12


def said(file: BinaryIO) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """Chunks of text, and of colour, as they are."""
    text: list[tuple[bytes, bytes]] = []
    colour: list[tuple[bytes, bytes]] = []
    total = 0
    for kind, at, length in walk(file):
        total += length if kind in TEXT + COLOUR else 0
        if total > CHUNK_LIMIT:
            raise InputError(f"holds more than {CHUNK_LIMIT >> 20} MiB of text")
        if kind in TEXT or kind in COLOUR:
            file.seek(at)
            (text if kind in TEXT else colour).append((kind, file.read(length)))
    return text, colour


class Writer:
    """A PNG in the making: rows come in order, as many as the caller has."""

    def __init__(
        self,
        file: BinaryIO,
        width: int,
        height: int,
        channels: int,
        bits: int,  # 8 or 16
        chunks: bytes = b"",  # between IHDR and the pixels
        threads: int = 2,
        frames: int = 0,  # of an animation
        loop: int = 0,
    ) -> None:
        self._file, self._height, self._bits, self._width = file, height, bits, width
        self._step = channels * bits // 8
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="fastsr-png")
        self._threads, self._animated, self._sequence, self._begun = max(1, threads), frames > 0, 0, 0
        file.write(SIGNATURE)
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPE[channels], 0, 0, 0)))
        if frames:
            file.write(chunk(b"acTL", struct.pack(">II", frames, loop)))
        file.write(chunks)

    def begin(self, milliseconds: float = 0) -> None:
        """A picture."""
        self._row, self._adler = 0, 1
        self._above = np.zeros(self._width * self._step, np.uint8)
        self._begun += 1
        if self._animated:
            delay = min(65535, round(milliseconds))
            control = struct.pack(">IIIIHHBB", self._width, self._height, 0, 0, delay, 1000, 0, 0)
            self._file.write(chunk(b"fcTL", self._next() + control))
        self._data(b"\x78\x01")

    def rows(self, array: np.ndarray) -> None:
        """[n, W, C] of uint8 or uint16, below those before."""
        if self._bits == 16:
            array = array.astype(">u2", copy=False)
        flat = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
        each = max(1, deflate.STRIP // (flat.shape[1] + 1))
        jobs = []
        for y in range(0, len(flat), each):
            last = self._row + min(y + each, len(flat)) == self._height
            jobs.append((flat[y : y + each], flat[y - 1] if y else self._above, last))
        for packed, raw in deflate.in_order(self._pack, jobs, self._pool, self._threads + 1):
            self._adler = deflate.adler32(raw, self._adler)
            self._data(packed)
        self._above = flat[-1].copy()
        self._row += len(flat)
        if self._row == self._height:
            self._data(struct.pack(">I", self._adler))

    def _pack(self, job: tuple[np.ndarray, np.ndarray, bool]) -> tuple[bytes, np.ndarray]:
        filtered = _filter(job[0], job[1], self._step)
        return deflate.compress(filtered, job[2]), filtered

    def _next(self) -> bytes:
        self._sequence += 1
        return struct.pack(">I", self._sequence - 1)

    def _data(self, data: bytes) -> None:
        self._file.write(chunk(b"IDAT", data) if self._begun == 1 else chunk(b"fdAT", self._next() + data))

    def end(self) -> None:
        self._file.write(chunk(b"IEND", b""))
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _filter(
    rows: np.ndarray,  # [n, bytes] u8
    above: np.ndarray,  # [bytes]
    step: int,  # bytes of a pixel
) -> np.ndarray:  # [n, 1 + bytes]
    """Differences to the left or to the row above, whichever a sample of the rows says is smaller."""
    out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    some = rows[:: max(1, len(rows) // 4)][:4]
    side = np.abs((some[:, step:] - some[:, :-step]).view(np.int8)).sum(dtype=np.int64) if len(rows) > 1 else 0
    up = np.abs((rows[1::2][:2] - rows[:-1:2][:2]).view(np.int8)).sum(dtype=np.int64) * (len(some) / 2)
    if side <= up or len(rows) < 4:
        out[:, 0] = 1
        out[:, 1 : 1 + step] = rows[:, :step]
        np.subtract(rows[:, step:], rows[:, :-step], out=out[:, 1 + step :])
    else:
        out[:, 0] = 2
        np.subtract(rows[0], above, out=out[0, 1:])
        np.subtract(rows[1:], rows[:-1], out=out[1:, 1:])
    return out


def deep_samples(data: BinaryIO) -> np.ndarray:  # [H, W, 3 | 4] u16
    """Of a 16-bit RGB or RGBA PNG, of which Pillow gives one byte a sample: it is asked for the high ones, then the low."""
    from PIL import Image

    halves = []
    for order in "BL":
        data.seek(0)
        with Image.open(data, formats=("PNG",)) as image:
            channels = len(image.mode)
            image.tile = [t._replace(args=f"{image.mode};16{order}") for t in image.tile]
            image.load()
            halves.append(np.asarray(image))
            if halves[-1].shape[2:] != (channels,):
                raise InputError(f"mode {image.mode} of 16 bits is not supported")
    out = halves[0].astype(np.uint16)
    out <<= 8
    out |= halves[1]
    return out


class Reader:
    """The rows of a PNG that is not interlaced, without more of it in memory than was asked for at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        chunks = walk(file)
        kind, at, length = next(chunks, (b"", 0, 0))
        if kind != b"IHDR" or length != 13:
            raise InputError("begins with no IHDR")
        file.seek(at)
        head = file.read(13)
        self.width, self.height, self.bits, self._type, _, _, self.interlaced = struct.unpack(">IIBBBBB", head)
        self._places = [(at, length) for kind, at, length in walk(file) if kind == b"IDAT"]
        self.streams = not self.interlaced and self.bits in (8, 16) and self._type in CHANNELS
        self.channels = CHANNELS.get(self._type, 0)
        self._stride = self.width * self.channels * self.bits // 8 + 1
        self._inflate = zlib.decompressobj()
        self._filtered = bytearray()
        self._above = bytes(self._stride)
        self._compressed = self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        for at, length in self._places:
            self._file.seek(at)
            while length:
                piece = self._file.read(min(length, 1 << 16))
                if not piece:
                    return
                length -= len(piece)
                yield piece

    def read(self, count: int) -> np.ndarray:  # [count, W, C] u8 or u16
        """The next rows."""
        need = count * self._stride
        while len(self._filtered) < need:
            more = self._inflate.unconsumed_tail or next(self._compressed, b"")
            if not more:
                raise InputError("cut short")
            try:
                self._filtered += self._inflate.decompress(more, 1 << 22)
            except zlib.error as e:
                raise ValueError(f"broken: {e}") from None
        rows = bytes(self._filtered[:need])
        del self._filtered[:need]
        array = self._unfilter(rows, count)
        last = array[-1].astype(">u2" if self.bits == 16 else np.uint8)
        self._above = b"\0" + last.tobytes()
        return array

    def _unfilter(self, rows: bytes, count: int) -> np.ndarray:
        """By Pillow: the rows with the one above them are a small PNG."""
        from PIL import Image

        head = struct.pack(">IIBBBBB", self.width, count + 1, self.bits, self._type, 0, 0, 0)
        body = zlib.compress(self._above + rows, 0)
        small = io.BytesIO(SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
        if self.bits == 16 and self.channels >= 2:
            array = deep_samples(small) if self.channels > 2 else deep_gray_alpha(small)
        else:
            with Image.open(small, formats=("PNG",)) as image:
                array = np.asarray(image)
        return array.reshape(count + 1, self.width, self.channels)[1:]


def deep_gray_alpha(data: BinaryIO) -> np.ndarray:  # [H, W, 2] u16
    """Of a 16-bit gray PNG with alpha: its bytes are those of an 8-bit RGBA one."""
    from PIL import Image

    data.seek(0)
    with Image.open(data, formats=("PNG",)) as image:
        image._mode = "RGBA"
        image.tile = [t._replace(args="RGBA") for t in image.tile]
        image.load()
        quads = np.array(image)
    deep: np.ndarray = quads.view(">u2").astype(np.uint16)
    return deep
