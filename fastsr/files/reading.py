# SPDX-License-Identifier: Apache-2.0
"""Files become pictures: by content, not by name; whole, or an InputError."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastsr import image
from fastsr.errors import FastsrError, InputError, LimitError
from fastsr.files import metadata, png, pnm, tiff
from fastsr.files.picture import Frame, Meta, Picture

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP", "DIB", "GIF", "AVIF", "TGA", "DDS", "JPEG2000", "JXL", "HEIF")
FILE_LIMIT = 2 << 30
"""bytes of what comes through a pipe"""
PIPES = ("-", "/dev/stdin", "/dev/fd/", "/proc/self/fd/")
PLUGINS = {
    b"\0\0\0\x0cJXL ": ("pillow_jxl", "JPEG XL", "pillow-jxl-plugin"),
    b"\xff\x0a": ("pillow_jxl", "JPEG XL", "pillow-jxl-plugin"),
}
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
NAMED = {
    b"8BPS": "Photoshop",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"qoif": "QOI",
    b"\0\0\1\0": "ICO",
}


def open_picture(name: str | Path, max_pixels: int | None = image.MAX_PIXELS) -> Picture:
    """Open an image file, or "-" for stdin. Its frames are decoded as they are asked for.

    Raises InputError, or from the header LimitError.
    """
    name = os.fspath(name)
    made: Picture = guarded(name, lambda: _open(name, max_pixels))
    return made


def guarded(name: str, work: Callable[[], Any]) -> Any:
    """Whatever a decoder raises becomes an InputError that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except (InputError, LimitError) as e:
        text = str(e)
        raise type(e)(text if text.startswith(name) else f"{name}: {text}") from None
    except (FastsrError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise LimitError(f"{name}: the image is above the limit of {image.MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        kinds = ", ".join(k for k in FORMATS if k not in ("DIB", "JXL", "HEIF"))
        raise InputError(f"{name}: not an image of a known kind ({kinds}), or cut short") from None
    except Exception as e:  # Pillow's decoders raise nearly anything on a broken file
        raise InputError(f"{name}: cannot be read: {getattr(e, 'strerror', None) or e}") from None


def _file(name: str) -> BinaryIO:
    """The file, or a pipe's content. Only what is named as a pipe is read as one: others may never end."""
    if name == "-":
        return _drained(sys.stdin.buffer)
    path = Path(name)
    if not path.exists():
        raise InputError(f"{name}: no such file")
    status = path.stat()
    if name.startswith(PIPES) and stat.S_ISFIFO(status.st_mode):
        with open(path, "rb") as pipe:
            return _drained(pipe)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: not a regular file")
    if status.st_size == 0:
        raise InputError(f"{name}: the file is empty (0 bytes)")
    return open(path, "rb")


def _drained(pipe: Any) -> BinaryIO:
    data = pipe.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise LimitError(f"is above the limit of {FILE_LIMIT >> 20} MiB for a pipe")
    if not data:
        raise InputError("the pipe is empty (0 bytes)")
    return io.BytesIO(data)


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise LimitError(
            f"{width}x{height} is above the limit of {max_pixels} pixels: --memory-limit lifts it and keeps memory bounded"
        )


def _open(name: str, max_pixels: int | None) -> Picture:
    file = _file(name)
    try:
        head = file.read(32)
        file.seek(0)
        if head[:2] in (b"II", b"MM") and head[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
            return _open_tiff(name, file, max_pixels)
        deep = pnm.deep(file)
        if deep is not None:
            check_pixels(deep.width, deep.height, max_pixels)
            array = deep.read(file)
            frame = Frame(array, 3 if array.shape[2] > 2 else 1, array.shape[2] in (2, 4))
            return Picture(name, "PPM", deep.width, deep.height, Meta(), 1, iter([frame]), notes=deep.notes)
        return _open_with_pillow(name, file, head, max_pixels)
    except BaseException:
        file.close()
        raise


def _open_with_pillow(name: str, file: BinaryIO, head: bytes, max_pixels: int | None) -> Picture:
    from PIL import Image, UnidentifiedImageError

    if head[:3] in (b"P2\n", b"P3\n") or head[:2] in (b"P2", b"P3"):
        image.check_text_end(file, name)
    _plugin(head)
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # ours is looked at below
        opened = _by_any_decoder(file)
    except UnidentifiedImageError:
        for magic, what in NAMED.items():
            if head.startswith(magic):
                raise InputError(f"is a file of {what}, which is not supported: convert it to PNG or TIFF") from None
        raise
    finally:
        Image.MAX_IMAGE_PIXELS = before
    width, height = opened.size
    check_pixels(width, height, max_pixels)
    kind = "JPEG" if opened.format in ("MPO", "JPEG") else "BMP" if opened.format == "DIB" else str(opened.format)
    count = 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))
    meta, turn = metadata.from_pillow(opened)
    notes = []
    if opened.format == "MPO" and getattr(opened, "n_frames", 1) > 1:
        notes.append("the file's further pictures (preview, depth or gain map) are left out")
    if kind == "PNG":
        meta = metadata.of_png(file, meta)
        file.seek(0)
    if opened.mode == "CMYK":
        notes.append("CMYK becomes RGB" + (" by its profile" if meta.icc else ""))
        meta = replace(meta, icc=None)
    elif opened.mode in ("YCbCr", "LAB", "HSV"):
        notes.append(f"{opened.mode} becomes RGB")
    if kind == "AVIF" and _deep_avif(file):
        notes.append("AVIF of more than 8 bits is read as 8 bits")
    if kind == "PNG" and count == 1:
        file.seek(0)
        raw = png.Reader(file)
        if raw.bits == 16 and raw.channels and (raw.channels > 1 or "transparency" in opened.info):
            key = opened.info.get("transparency")
            del opened
            frame = guarded(name, partial(_deep_png, file, raw, key))
            frame = replace(frame, array=oriented(frame.array, turn))
            height, width = frame.array.shape[:2]
            return Picture(name, kind, width, height, meta, 1, iter([frame]), notes=notes)
    animated = count > 1
    frames = _pillow_frames(name, opened, count, turn, animated)
    if not animated:
        frames = iter([next(frames)])  # what is wrong with it is said now
    if turn >= 5:
        width, height = height, width
    loop = opened.info.get("loop", 1 if kind == "GIF" else 0)
    return Picture(name, kind, width, height, meta, count, frames, animated, int(loop or 0), notes)


def _by_any_decoder(file: BinaryIO) -> Any:
    from PIL import Image

    try:
        return Image.open(file, formats=FORMATS)
    except KeyError:  # of a plugin that is not installed, or a format that this Pillow lacks
        file.seek(0)
        return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _plugin(head: bytes) -> None:
    """Kinds that Pillow reads by a plugin, where it is installed."""
    for magic, (module, what, package) in PLUGINS.items():
        if head.startswith(magic):
            try:
                __import__(module)
            except ImportError:
                raise InputError(f"is {what}: pip install {package} reads it") from None
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        try:
            import pillow_heif

            pillow_heif.register_heif_opener()
        except ImportError:
            raise InputError("is HEIC: pip install pillow-heif reads it") from None


def _deep_avif(file: BinaryIO) -> bool:
    file.seek(0)
    data = file.read(1 << 16)
    at = data.find(b"av1C")
    return at >= 0 and len(data) > at + 6 and bool(data[at + 6] & 0x40)


def _deep_png(file: BinaryIO, raw: png.Reader, key: Any) -> Frame:
    if raw.channels == 1:  # with a transparent colour
        from PIL import Image

        file.seek(0)
        with Image.open(file, formats=("PNG",)) as opened:
            gray = np.asarray(opened).astype(np.uint16)[..., None]
        return Frame(keyed(gray, (key,)), 1, True)
    array = png.deep_gray_alpha(file) if raw.channels == 2 else png.deep_samples(file)
    if raw.channels == 3 and key is not None:
        return Frame(keyed(array, key), 3, True)
    return Frame(array, 3 if raw.channels > 2 else 1, raw.channels in (2, 4))


def keyed(array: np.ndarray, key: Any) -> np.ndarray:
    """With alpha: 0 where the pixel is the transparent colour."""
    clear = (array == np.asarray(key, array.dtype)).all(axis=2, keepdims=True)
    return np.concatenate([array, np.where(clear, 0, np.iinfo(array.dtype).max).astype(array.dtype)], axis=2)


def oriented(array: np.ndarray, turn: int) -> np.ndarray:
    """Turned as EXIF's orientation says."""
    if turn in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(turn, (1, 1))
    return array[::down, ::across]


def _pillow_frames(name: str, opened: Any, count: int, turn: int, animated: bool) -> Iterator[Frame]:
    def one(number: int) -> Frame:
        if animated:
            opened.seek(number)
        opened.load()
        duration = float(opened.info.get("duration", 0) or 0)
        array = image.array_of(opened.convert("RGBA") if animated and opened.format == "GIF" else opened)
        array = array[..., None] if array.ndim == 2 else array
        bands = array.shape[2]
        return Frame(oriented(array, turn), 1 if bands <= 2 else 3, bands in (2, 4), duration)

    with opened:
        for number in range(count):
            yield guarded(name, partial(one, number))


def _open_tiff(name: str, file: BinaryIO, max_pixels: int | None) -> Picture:
    found = list(tiff.directories(file))
    if not found:
        raise InputError("holds no page")
    pages = [(number, d, at) for number, (d, at) in enumerate(found) if not d.one(254) & 1]  # no thumbnails
    pages = pages or [(0, *found[0])]
    first = tiff.Page(file, pages[0][1])
    check_pixels(first.width, first.height, max_pixels)
    meta, turn = metadata.of_tiff(file, pages[0][1], pages[0][2])
    notes = []
    if first.photometric == 5:
        notes.append("CMYK becomes RGB" + (" by its profile" if meta.icc else ""))
        meta = replace(meta, icc=None)
    if turn not in range(1, 9):
        turn = 1
    if turn != 1 and meta.geo:
        notes.append("the georeference of a turned picture is dropped")
        meta = replace(meta, geo=())
    if len(pages) < len(found):
        notes.append(f"{len(found) - len(pages)} reduced copies in the file are left out")

    def one(number: int, directory: tiff.Directory) -> Frame:
        page = tiff.Page(file, directory)
        check_pixels(page.width, page.height, max_pixels)
        turned = directory.one(274, 1)
        made = tiff.frame(page) if page.ours else _page_by_pillow(file, number, page)
        return replace(made, array=oriented(made.array, turned))

    def frames() -> Iterator[Frame]:
        with file:
            for number, directory, _ in pages:
                yield guarded(name, partial(one, number, directory))

    made = frames()
    if len(pages) == 1:
        made = iter([next(made)])
    width, height = (first.height, first.width) if turn >= 5 else (first.width, first.height)
    return Picture(name, "TIFF", width, height, meta, len(pages), made, notes=notes)


def _page_by_pillow(file: BinaryIO, number: int, page: tiff.Page) -> Frame:
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    try:
        opened: Any = Image.open(file, formats=("TIFF",))
        opened.seek(number)
        opened.load()
    except (UnidentifiedImageError, SyntaxError, OSError, ValueError) as e:
        with contextlib.suppress(struct.error):
            if not isinstance(e, OSError) or isinstance(e, UnidentifiedImageError):
                raise InputError(f"is a TIFF of a kind that is not supported: {page.what}") from None
        raise
    array = image.array_of(opened)
    array = array[..., None] if array.ndim == 2 else array
    bands = array.shape[2]
    return Frame(array, 1 if bands <= 2 else 3, bands in (2, 4))
