# SPDX-License-Identifier: Apache-2.0
"""Pictures become files: beside their target, flushed, renamed, so that a file is whole or absent."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from fastsr.errors import OutputError
from fastsr.files import metadata, png, pnm, tiff
from fastsr.files.picture import ENDINGS, Frame, Meta

SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "TGA": 65535, "AVIF": 65536, "PNG": 2**31 - 1, "TIFF": 2**31 - 1}
ALPHA = ("PNG", "WEBP", "TIFF", "GIF", "AVIF", "TGA")
ANIMATED = ("PNG", "WEBP", "GIF")
DEEP = {"PNG": 16, "PPM": 16, "TIFF": 64}
LOSSLESS_WEBP = {"lossless": True, "quality": 30, "method": 0}


@dataclass(frozen=True)
class Saving:
    """How files are written."""

    quality: int | None = None  # of JPEG, WebP, AVIF
    threads: int = 2
    metadata: bool = True


def fitting(kinds: tuple[str, ...]) -> str:
    return " or ".join(
        dict.fromkeys(e for e, k in ENDINGS.items() if k in kinds and e in (".png", ".tif", ".webp", ".gif"))
    )


def check(target: str, kind: str, frame: Frame, size: tuple[int, int], count: int, animated: bool) -> list[str]:
    """What will be changed, a line each. Raises OutputError for what the format cannot hold, before the work."""
    side = max(size)
    if side > SIDE.get(kind, side):
        raise OutputError(f"{target}: {kind} holds sides up to {SIDE[kind]} pixels, not {side}: use .png or .tif")
    if count > 1 and animated and kind not in (*ANIMATED, "TIFF"):
        raise OutputError(f"{target}: {kind} holds one picture, not {count} frames: use {fitting(ANIMATED)}")
    if count > 1 and not animated and kind != "TIFF":
        raise OutputError(f"{target}: {kind} holds one picture, not {count} pages: use .tif")
    if frame.alpha and kind not in ALPHA and not opaque(frame):
        raise OutputError(f"{target}: {kind} cannot hold this transparent image: use {fitting(ALPHA)}")
    if not frame.plain and kind != "TIFF":
        raise OutputError(f"{target}: {kind} cannot hold this {frame.what} image: use .tif")
    dtype = frame.array.dtype
    if dtype.kind != "u" or dtype.itemsize > 2:
        if kind != "TIFF":
            raise OutputError(f"{target}: {kind} cannot hold this {frame.what} image: use .tif")
    elif 8 * dtype.itemsize > DEEP.get(kind, 8):
        return [f"16 bits become 8: {kind} holds no more"]
    return []


def opaque(frame: Frame) -> bool:
    """Whether alpha says nothing."""
    a = frame.array[..., frame.colors]
    return bool((a == (1 if a.dtype.kind == "f" else np.iinfo(a.dtype).max)).all())


@contextlib.contextmanager
def whole_or_absent(path: str, before: Callable[[str], None] = lambda temporary: None) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its name, and the mode of what was there, when all is written. "-": stdout.

    before: is called with its name when all is on the disk, before it takes the other.
    """
    if path == "-":
        with _to_stdout() as out:
            yield out
        return
    target = Path(path)
    temporary = target.parent / f".fastsr-{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "x+b") as f:
            yield f
            f.flush()
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(f.fileno(), os.stat(target).st_mode & 0o7777)
            os.fsync(f.fileno())
        before(str(temporary))
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except (OSError, ValueError) as e:
        raise OutputError(f"{path}: cannot be written: {getattr(e, 'strerror', None) or e}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _to_stdout() -> Iterator[IO[bytes]]:
    import io

    buffer = io.BytesIO()  # writers go back in a file
    yield buffer
    sys.stdout.buffer.write(buffer.getbuffer())
    sys.stdout.buffer.flush()


class Sink(Protocol):
    """A file in the making."""

    def begin(self, frame: Frame, size: tuple[int, int]) -> None:
        """A picture of that width and height follows; of `frame` all but its pixels counts."""
        ...

    def rows(self, array: np.ndarray) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None:
        """Also when it went wrong."""
        ...


def sink(
    file: IO[bytes], kind: str, meta: Meta, saving: Saving, count: int, animated: bool, loop: int, size: int
) -> Sink:
    """size: bytes of all pixels, about. `meta` is what `metadata.carried` left."""
    if kind == "PNG":
        return _Png(file, meta, saving, count if animated else 0, loop)
    if kind == "TIFF":
        return _Tiff(file, meta, saving, size)
    if kind == "PPM":
        return _Ppm(file)
    return _Pillow(file, kind, meta, saving, animated, loop)


def shown(array: np.ndarray, frame: Frame, kind: str) -> tuple[np.ndarray, Frame]:
    """As the format holds it: alpha that says nothing left out, 16 bits to 8."""
    if frame.alpha and kind not in ALPHA:
        array = array[..., : frame.colors]
        frame = replace(frame, alpha=False)
    dtype = array.dtype
    if dtype == np.uint16 and DEEP.get(kind, 8) < 16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return array, frame


class _Png:
    def __init__(self, file: Any, meta: Meta, saving: Saving, frames: int, loop: int) -> None:
        self._file, self._meta, self._saving, self._frames, self._loop = file, meta, saving, frames, loop
        self._writer: png.Writer | None = None

    def begin(self, frame: Frame, size: tuple[int, int]) -> None:
        self._size = size
        self._frame = frame
        self._begun = False

    def rows(self, array: np.ndarray) -> None:
        if self._writer is None:
            bits, channels = 8 * array.dtype.itemsize, array.shape[2]
            chunks = metadata.png_chunks(self._meta)
            threads = self._saving.threads
            self._writer = png.Writer(
                self._file, *self._size, channels, bits, chunks, threads, self._frames, self._loop
            )
        if not self._begun:
            self._begun = True
            self._writer.begin(self._frame.milliseconds)
        self._writer.rows(array)

    def end(self) -> None:
        if self._writer is not None:
            self._writer.end()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Tiff:
    def __init__(self, file: Any, meta: Meta, saving: Saving, size: int) -> None:
        self._writer, self._meta = tiff.Writer(file, size, saving.threads), meta
        self._left = -1

    def begin(self, frame: Frame, size: tuple[int, int]) -> None:
        self._frame, self._size, self._left = frame, size, -1

    def rows(self, array: np.ndarray) -> None:
        frame = self._frame
        if self._left < 0:
            self._left = self._size[1]
            self._writer.begin(*self._size, array.shape[2], array.dtype, frame.colors, frame.alpha)
        self._writer.rows(array)
        self._left -= len(array)
        if self._left == 0:
            self._writer.page(*metadata.tiff_tags(self._meta))

    def end(self) -> None:
        self._writer.end()

    def close(self) -> None:
        self._writer.close()


class _Ppm:
    def __init__(self, file: Any) -> None:
        self._file, self._begun = file, False

    def begin(self, frame: Frame, size: tuple[int, int]) -> None:
        self._size = size

    def rows(self, array: np.ndarray) -> None:
        bits = 8 * array.dtype.itemsize
        if not self._begun:
            self._file.write(pnm.header(*self._size, array.shape[2], bits))
            self._begun = True
        self._file.write(array.astype(">u2" if bits == 16 else np.uint8, copy=False).tobytes())

    def end(self) -> None: ...

    def close(self) -> None: ...


class _Pillow:
    """JPEG, WebP, AVIF, GIF, BMP, TGA: whole pictures."""

    def __init__(self, file: Any, kind: str, meta: Meta, saving: Saving, animated: bool, loop: int) -> None:
        self._file, self._kind, self._meta, self._saving = file, kind, meta, saving
        self._animated, self._loop = animated, loop
        self._parts: list[np.ndarray] = []
        self._frames: list[tuple[np.ndarray, float]] = []

    def begin(self, frame: Frame, size: tuple[int, int]) -> None:
        self._frame, self._size, self._parts = frame, size, []

    def rows(self, array: np.ndarray) -> None:
        self._parts.append(array)
        if sum(map(len, self._parts)) == self._size[1]:
            whole = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
            self._frames.append((whole, self._frame.milliseconds))
            self._parts = []

    def end(self) -> None:
        from PIL import Image

        def picture(array: np.ndarray) -> Image.Image:
            if self._kind in ("WEBP", "AVIF", "GIF") and array.shape[2] == 2:
                array = array[..., (0, 0, 0, 1)]
            return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))

        options: dict[str, Any] = metadata.pillow_options(self._meta, self._kind)
        quality = self._saving.quality
        if self._kind == "JPEG":
            options |= {"quality": quality or 95, "subsampling": 0}
        elif self._kind == "WEBP":
            options |= LOSSLESS_WEBP if quality is None else {"quality": quality, "method": 4}
        elif self._kind == "AVIF":
            options |= {"quality": quality or 90}
        if self._animated:
            more = (picture(a) for a, _ in self._frames[1:])
            options |= {
                "save_all": True,
                "append_images": list(more) if self._kind == "WEBP" else more,
                "duration": [round(ms) for _, ms in self._frames],
                "loop": self._loop,
            }
            if self._kind == "GIF":
                options |= {"disposal": 2}
        picture(self._frames[0][0]).save(self._file, format=self._kind, **options)

    def close(self) -> None:
        self._frames = []


def convert_profile(array: np.ndarray, frame: Frame, icc: bytes) -> np.ndarray | None:
    """8-bit RGB in sRGB, for formats that hold no profile; None where it cannot be done."""
    if array.dtype != np.uint8 or frame.colors != 3:
        return None
    from io import BytesIO

    from PIL import Image

    with contextlib.suppress(Exception):  # a broken profile, or a Pillow without littlecms
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        made = ImageCms.profileToProfile(
            Image.fromarray(np.ascontiguousarray(array[..., :3])), profile, ImageCms.createProfile("sRGB")
        )
        if made is not None:
            return np.concatenate([np.asarray(made), array[..., 3:]], axis=2)
    return None
