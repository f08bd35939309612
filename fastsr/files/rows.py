# SPDX-License-Identifier: Apache-2.0
"""Files of which a few rows can be read without the rest: PNG that is not interlaced, TIFF in strips or tiles."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Protocol

from fastsr import strips
from fastsr.errors import FastsrError
from fastsr.files import metadata, png, tiff
from fastsr.files.picture import Frame, Meta, Picture


class RowReader(Protocol):
    """An opened file. Rows are asked for from top to bottom, the same ones again at most once."""

    picture: Picture
    shape: tuple[int, int, int]
    itemsize: int

    def frame(self, begin: int, end: int) -> Frame: ...

    def close(self) -> None: ...

    def __enter__(self) -> RowReader: ...

    def __exit__(self, *exc: object) -> None: ...


class _Reader:
    def __init__(self, file: Any, picture: Picture, shape: tuple[int, int, int], itemsize: int, rows: Any) -> None:
        self._file, self.picture, self.shape, self.itemsize, self._rows = file, picture, shape, itemsize, rows

    def frame(self, begin: int, end: int) -> Frame:
        made: Frame = self._rows(begin, end)
        return made

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def row_reader(name: str) -> RowReader | None:
    """None where the file has to be read whole, or is none: opening it says why."""
    if name == "-" or not os.path.isfile(name):
        return None
    file = open(name, "rb")  # noqa: SIM115  the reader closes it
    made = None
    with contextlib.suppress(FastsrError, OSError, ValueError, SyntaxError, StopIteration):
        head = file.read(8)
        if head == png.SIGNATURE:
            made = _png(name, file)
        elif head[:2] in (b"II", b"MM"):
            made = _tiff(name, file)
    if made is None:
        file.close()
    return made


def _png(name: str, file: Any) -> RowReader | None:
    raw = png.Reader(file)
    kinds = {kind for kind, _, _ in png.walk(file)}
    if not raw.streams or b"tRNS" in kinds or b"acTL" in kinds or b"IEND" not in kinds:
        return None
    meta, turn = _png_meta(file)
    if turn != 1:
        return None
    picture = Picture(name, "PNG", raw.width, raw.height, metadata.of_png(file, meta), 1, iter(()))
    rows = strips.in_sequence(raw.read)

    def frame(begin: int, end: int) -> Frame:
        return Frame(rows(begin, end), 3 if raw.channels > 2 else 1, raw.channels in (2, 4))

    return _Reader(file, picture, (raw.height, raw.width, raw.channels), raw.bits // 8, frame)


def _png_meta(file: Any) -> tuple[Meta, int]:
    from PIL import Image

    file.seek(0)
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return metadata.from_pillow(Image.open(file, formats=("PNG",)))
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _tiff(name: str, file: Any) -> RowReader | None:
    found = list(tiff.directories(file))
    if len(found) != 1:
        return None
    page = tiff.Page(file, found[0][0])
    if not page.ours or page.tags.one(274, 1) != 1:
        return None
    meta, _ = metadata.of_tiff(file, *found[0])
    picture = Picture(name, "TIFF", page.width, page.height, meta, 1, iter(()))
    assert page.dtype is not None
    shape = page.height, page.width, page.bands
    return _Reader(
        file, picture, shape, page.dtype.itemsize, lambda begin, end: tiff.as_frame(page, page.rows(begin, end))
    )
