# SPDX-License-Identifier: Apache-2.0
"""Files that are cut or damaged: an error of ours in one line, or a whole picture; nothing is taken on trust."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsr import image
from fastsr.errors import FastsrError, InputError, LimitError
from fastsr.files import deflate, png, tiff
from fastsr.files.reading import open_picture
from fastsr.testing import rng, script

making: Any = script(Path(__file__).parent / "making.py")


def content(kind: str) -> bytes:
    """A small file of each road through the readers."""
    buffer = io.BytesIO()
    if kind in ("rgb16.png", "la16.png"):
        making.write_png("x", making.photo(3 if kind[0] == "r" else 2, np.uint16, 65535, h=6, w=7))
        return Path("x").read_bytes()
    if kind == "rgb16.tif":
        writer = tiff.Writer(buffer, 1000)
        writer.begin(7, 6, 3, np.dtype(np.uint16), 3, False)
        writer.rows(making.photo(3, np.uint16, 65535, h=6, w=7))
        writer.page([], {})
        writer.end()
        return buffer.getvalue()
    if kind == "rgb16.ppm":
        return b"P6\n7 6\n65535\n" + making.photo(3, np.uint16, 65535, h=6, w=7).astype(">u2").tobytes()
    picture = Image.fromarray(making.photo(3, np.uint8, 255, h=6, w=7))
    if kind == "lzw.tif":
        making_gray = Image.fromarray(making.photo(1, np.uint16, 65535, h=6, w=7)[..., 0])
        making_gray.save(buffer, "TIFF", compression="tiff_lzw")
    elif kind == "anim.gif":
        picture.save(buffer, "GIF", save_all=True, append_images=[picture.rotate(180)], duration=50)
    elif kind == "anim.png":
        picture.save(buffer, "PNG", save_all=True, append_images=[picture.rotate(180)], duration=50)
    return buffer.getvalue()


def opened(path: str, most: int = image.MAX_PIXELS) -> tuple[list[np.ndarray], str | None]:
    """The frames, or what is wrong in one line. Anything but a FastsrError goes on."""
    try:
        return [f.array for f in open_picture(path, most).frames], None
    except FastsrError as e:
        return [], str(e).splitlines()[0] if str(e).isprintable() else ""


KINDS = ("rgb16.png", "la16.png", "rgb16.tif", "rgb16.ppm", "lzw.tif", "anim.gif", "anim.png")


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    whole = content(kind)
    want = [f.array for f in (Path("w").write_bytes(whole), open_picture("w"))[1].frames]
    refused = 0
    for end in range(0, len(whole), max(1, len(whole) // 120)):
        Path("a").write_bytes(whole[:end])
        got, error = opened("a")
        if error is not None:
            assert error.startswith("a: ")
            refused += 1
            continue
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=False)) or kind.startswith("anim")
    assert refused > 50


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image, "MAX_PIXELS", 1 << 16)
    whole, random = bytearray(content(kind)), rng(7)
    for _ in range(250):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 4)):
            damaged[at] = random.integers(0, 256)
        Path("a").write_bytes(damaged)
        opened("a", 1 << 16)


def test_limits_come_before_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = struct.pack(">IIBBBBB", 60000, 60000, 16, 2, 0, 0, 0)
    body = making.chunk(b"IHDR", head) + making.chunk(b"IDAT", zlib.compress(b"")) + making.chunk(b"IEND", b"")
    Path("a.png").write_bytes(png.SIGNATURE + body)
    with pytest.raises(LimitError, match="60000x60000 is above the limit"):
        open_picture("a.png")
    Path("a.ppm").write_bytes(b"P6\n60000 60000\n65535\n")
    with pytest.raises(LimitError, match="60000x60000 is above"):
        open_picture("a.ppm")
    entries = {256: 60000, 257: 60000, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 60000, 279: 10}
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", k, 4, 1, v) for k, v in entries.items())
    Path("a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + ifd + bytes(4))
    with pytest.raises(LimitError, match="60000x60000 is above"):
        open_picture("a.tif")
    Path("b.tif").write_bytes(
        b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 273, 4, 0xFFFFFFFF, 8) + bytes(4)
    )
    with pytest.raises(LimitError, match="values of tag 273"):
        open_picture("b.tif")


def test_a_directory_that_points_at_itself_ends() -> None:
    ifd = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 9) + struct.pack("<I", 8)
    assert len(list(tiff.directories(io.BytesIO(b"II*\0" + struct.pack("<I", 8) + ifd)))) == 1


def test_a_png_with_too_much_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(png, "CHUNK_LIMIT", 100)
    making.write_png("a.png", making.photo(3, np.uint8, 255), making.chunk(b"tEXt", b"a\0" + b"b" * 200))
    with pytest.raises(InputError, match="MiB of text"):
        open_picture("a.png")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_by_bands(dtype: Any, channels: int, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in bands of any rows and small strips, with ISA-L and without it, read by strips and by others."""
    monkeypatch.setattr(deflate, "STRIP", 700)
    if not fast:
        monkeypatch.setattr(deflate, "fast", zlib)
    random = rng(channels)
    for h, w in ((1, 1), (1, 9), (9, 1), (37, 23)):
        a = random.integers(0, np.iinfo(dtype).max + 1, (h, w, channels)).astype(dtype)
        if h > 9:
            a[10:30] = a[10:11]  # rows that are equal: the other filter
        file = io.BytesIO()
        writer = png.Writer(file, w, h, channels, 8 * a.dtype.itemsize)
        writer.begin()
        at = 0
        while at < h:
            count = int(random.integers(1, 12))
            writer.rows(a[at : at + count])
            at += count
        writer.end()
        Path_ = io.BytesIO(file.getvalue())
        reader = png.Reader(Path_)
        assert reader.streams
        got = [reader.read(1)] + [reader.read(min(5, h - i)) for i in range(1, h, 5)]
        assert np.array_equal(np.concatenate(got), a)
        file.seek(0)
        with Image.open(file) as seen:
            seen.load()
            if dtype == np.uint8 or channels == 1:
                assert np.array_equal(np.asarray(seen).reshape(a.shape), a)


def test_bigtiff_and_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    a = making.photo(5, np.int16, 900, -900, h=30)
    for size in (1000, tiff.BIG + 1):
        file = io.BytesIO()
        writer = tiff.Writer(file, size)
        for part in (a, a[:7]):
            writer.begin(a.shape[1], len(part), 5, a.dtype, 1, False)
            writer.rows(part[:5])
            writer.rows(part[5:])
            writer.page([tiff.Tag(305, 2, b"fastsr\0")], {})
        writer.end()
        file.seek(0)
        with tifffile.TiffFile(file) as found:
            assert found.is_bigtiff == (size > tiff.BIG)
            assert [page.shape for page in found.pages] == [(30, 28, 5), (7, 28, 5)]
            assert np.array_equal(found.pages[0].asarray(), a)
        pages = [tiff.Page(file, page) for page in tiff.directories(file)]
        assert np.array_equal(pages[0].rows(3, 29), a[3:29])
        assert np.array_equal(pages[1].rows(0, 7), a[:7])
