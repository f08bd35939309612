# SPDX-License-Identifier: Apache-2.0
"""What is said about a picture: taken from a file, brought up to date, and what of it another format holds."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from dataclasses import replace
from typing import Any

from fastsr.errors import FastsrError
from fastsr.files import png, tiff
from fastsr.files.picture import Meta

ORIENTATION, EXIF_IFD, GPS_IFD, MAKER_NOTE = 0x112, 0x8769, 0x8825, 0x927C
WIDTH, HEIGHT = 0xA002, 0xA003  # in the directory of EXIF
RESOLUTION = {"x": 282, "y": 283, "unit": 296}
KEPT_TAGS = (270, 271, 272, 305, 306, 315, 316, 33432)
"""TIFF's own words about a picture: description, camera, software, date, artist, host, copyright"""
HOLDS: dict[str, set[str]] = {
    "PNG": {"ICC profile", "EXIF", "XMP", "resolution", "PNG text", "PNG colour chunks", "comment"},
    "JPEG": {"ICC profile", "EXIF", "XMP", "resolution", "comment"},
    "WEBP": {"ICC profile", "EXIF", "XMP", "resolution"},
    "AVIF": {"ICC profile", "EXIF", "XMP", "resolution"},
    "TIFF": {"ICC profile", "EXIF", "XMP", "resolution", "georeference", "comment"},
    "GIF": {"comment"},
    "BMP": {"resolution"},
    "PPM": set(),
    "TGA": set(),
}
SRGB: dict[bytes, set[Any]] = {
    b"gAMA": {45455, 45454, 45456},
    b"cHRM": {(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)},
}


def from_pillow(image: Any, comments: bool = True) -> tuple[Meta, int]:
    """What Pillow found in an opened file, and the orientation that is still to be applied."""
    info = image.info
    exif = image.getexif()
    turn = int(exif.get(ORIENTATION, 1) or 1) if isinstance(exif.get(ORIENTATION, 1), int) else 1
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    comment = info.get("comment") if comments else None
    dpi = info.get("dpi")
    if image.format == "PNG" and dpi is None and "aspect" in info:
        dpi = None
    iptc = info.get("photoshop")
    has_iptc = isinstance(iptc, dict) and 0x0404 in iptc
    meta = Meta(
        icc=info.get("icc_profile") or None,
        exif=_exif_bytes(exif) if _says_something(exif) else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        dpi=_resolution(dpi),
        comment=comment.encode("latin-1", "replace") if isinstance(comment, str) else comment or None,
        iptc=iptc[0x0404] if has_iptc else None,
    )
    return upright(meta), turn if 1 <= turn <= 8 else 1


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None


def _says_something(exif: Any) -> bool:
    about = set(exif) - {ORIENTATION, *RESOLUTION.values(), 531}
    return bool(about)


def _exif_bytes(exif: Any) -> bytes | None:
    with contextlib.suppress(Exception):  # EXIF that cannot be written again is left out, as Pillow's errors are many
        data: bytes = exif.tobytes()
        return data.removeprefix(b"Exif\0\0")
    return None


def load_exif(data: bytes | None) -> Any:
    from PIL import Image

    exif = Image.Exif()
    if data:
        with contextlib.suppress(Exception):
            exif.load(b"Exif\0\0" + data)
    return exif


def upright(meta: Meta) -> Meta:
    """The same for pixels that are turned already."""
    exif, xmp = meta.exif, meta.xmp
    if exif is not None:
        loaded = load_exif(exif)
        if loaded.get(ORIENTATION, 1) != 1:
            loaded[ORIENTATION] = 1
            exif = _exif_bytes(loaded)
    if xmp is not None:
        xmp = re.sub(rb'(tiff:Orientation\s*=\s*["\'])\d', rb"\g<1>1", xmp)
        xmp = re.sub(rb"(<tiff:Orientation>)\d", rb"\g<1>1", xmp)
    return replace(meta, exif=exif, xmp=xmp)


def resized(
    meta: Meta,
    width: int,  # of the result
    height: int,
    across: float,  # how many times as large as the input
    down: float,
) -> Meta:
    """The same for a larger picture: the sizes that EXIF names, the pixel of a georeference."""
    exif = meta.exif
    if exif is not None:
        loaded = load_exif(exif)
        inner = loaded.get_ifd(EXIF_IFD)
        if WIDTH in inner or HEIGHT in inner:
            inner[WIDTH], inner[HEIGHT] = width, height
            exif = _exif_bytes(loaded) or exif
    point = any(tag == 34735 and _is_point(values) for tag, _, values in meta.geo)
    geo = tuple((tag, kind, _geo(tag, values, across, down, point)) for tag, kind, values in meta.geo)
    return replace(meta, exif=exif, geo=geo)


def _is_point(keys: Any) -> bool:
    """Whether GTRasterTypeGeoKey says that a pixel's value is that of its centre."""
    return any(tuple(keys[i : i + 4]) == (1025, 0, 1, 2) for i in range(4, len(keys), 4))


def _geo(tag: int, values: Any, across: float, down: float, point: bool) -> Any:
    """GeoTIFF 1.0, 2.6.1: raster coordinates times the factor, map units per pixel divided by it."""
    if tag == 33550 and len(values) >= 2:  # ModelPixelScale
        return (values[0] / across, values[1] / down, *values[2:])
    if tag == 33922:  # ModelTiepoint: I, J, K, X, Y, Z
        half = 0.5 if point else 0.0
        out = list(values)
        for i in range(0, len(out) - 5, 6):
            out[i] = (out[i] + half) * across - half
            out[i + 1] = (out[i + 1] + half) * down - half
        return tuple(out)
    if tag == 34264 and len(values) == 16:  # ModelTransformation, by rows
        m = list(values)
        for r in range(0, 12, 4):
            a, b = m[r] / across, m[r + 1] / down
            if point:  # the first pixel's centre moves towards the corner
                m[r + 3] += 0.5 * (a - m[r]) + 0.5 * (b - m[r + 1])
            m[r], m[r + 1] = a, b
        return tuple(m)
    return values


def _plain(kind: int, values: Any) -> Any:
    """A tag's values as Pillow's EXIF has them."""
    if kind == 2:
        return values.rstrip(b"\0").decode("utf-8", "replace")
    if kind == 1 and len(values) > 1:
        return bytes(values)
    return values[0] if isinstance(values, tuple) and len(values) == 1 else values


def of_tiff(file: Any, page: tiff.Directory) -> tuple[Meta, int]:
    """What a page's tags say, and its orientation."""
    from PIL import Image

    exif = Image.Exif()
    for tag in KEPT_TAGS:
        if tag in page.tags:
            exif[tag] = _plain(*page.tags[tag])
    for tag in (EXIF_IFD, GPS_IFD):
        with contextlib.suppress(FastsrError, IndexError):  # a broken one is left out
            inner = tiff.inner(file, page, tag)
            if inner:
                exif.get_ifd(tag).update({k: _plain(*v) for k, v in inner.items() if k != MAKER_NOTE})
                exif[tag] = exif.get_ifd(tag)
    unit = page.one(296, 2)
    dpi = None
    if 282 in page.tags and 283 in page.tags and unit in (2, 3):
        times = 2.54 if unit == 3 else 1.0
        dpi = _resolution(tuple(page.get(tag)[0] * times for tag in (282, 283)))
    xmp, icc = page.get(700), page.get(34675)
    geo = tuple((tag, *page.tags[tag]) for tag in tiff.GEO if tag in page.tags)
    meta = Meta(
        icc=bytes(icc) if icc else None,
        exif=_exif_bytes(exif) if len(exif) else None,
        xmp=bytes(xmp) if xmp else None,
        dpi=dpi,
        iptc=b"IPTC" if 33723 in page.tags else None,
        geo=geo,
    )
    return upright(meta), page.one(274, 1)


def of_png(file: Any, meta: Meta) -> Meta:
    """With the chunks that Pillow does not hand on as they are."""
    text, colour = png.said(file)
    text = [(kind, data) for kind, data in text if not data.startswith((b"XML:com.adobe.xmp\0", b"Raw profile type "))]
    return replace(meta, text=tuple(text), colour=tuple(colour), comment=None)


def unusual(colour: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether the chunks say something else than sRGB."""
    kinds = {kind for kind, _ in colour}
    if b"sRGB" in kinds:
        return bool(kinds & {b"cICP"})
    for kind, data in colour:
        if kind == b"cICP" and data[:2] == b"\x01\x0d":
            continue
        if kind == b"gAMA" and len(data) == 4 and struct.unpack(">I", data)[0] in SRGB[b"gAMA"]:
            continue
        if kind == b"cHRM" and len(data) == 32 and struct.unpack(">8I", data) in SRGB[b"cHRM"]:
            continue
        return True
    return False


def carried(meta: Meta, kind: str, gray: bool) -> tuple[Meta, list[str]]:
    """What the format holds of it, and the names of what is dropped."""
    holds, dropped = HOLDS[kind], []

    def keep(name: str, value: Any, nothing: Any = None, matters: bool = True) -> Any:
        if not value or name in holds:
            return value
        if matters:
            dropped.append(name)
        return nothing

    icc = keep("ICC profile", meta.icc)
    if icc and icc[16:20] not in ((b"GRAY",) if gray else (b"RGB ",)):
        space = icc[16:20].decode("latin-1").strip()
        dropped.append(f"{space} profile of a picture that is {'gray' if gray else 'RGB'}")
        icc = None
    kept = Meta(
        icc=icc,
        exif=keep("EXIF", meta.exif),
        xmp=keep("XMP", meta.xmp),
        dpi=keep("resolution", meta.dpi, matters=False),
        text=keep("PNG text", meta.text, ()),
        colour=keep("PNG colour chunks", meta.colour, (), unusual(meta.colour)),
        comment=keep("comment", meta.comment),
        iptc=keep("IPTC", meta.iptc),
        geo=keep("georeference", meta.geo, ()),
    )
    return kept, dropped


def png_chunks(meta: Meta) -> bytes:
    """Before the pixels: colour first, as PNG wants it."""
    out = []
    if meta.icc:
        out.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(meta.icc)))
    out += [c for c in meta.colour if not (meta.icc and c[0] == b"sRGB")]
    if meta.dpi:
        x, y = (round(v / 0.0254) for v in meta.dpi)
        out.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if meta.exif:
        out.append((b"eXIf", meta.exif))
    if meta.xmp:
        out.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + meta.xmp))
    out += meta.text
    if meta.comment:
        out.append((b"tEXt", b"Comment\0" + meta.comment.replace(b"\0", b" ")))
    return b"".join(png.chunk(kind, data) for kind, data in out)


def pillow_options(meta: Meta, kind: str) -> dict[str, Any]:
    """For Pillow's save."""
    options: dict[str, Any] = {}
    exif = meta.exif
    if kind in ("WEBP", "AVIF") and meta.dpi:  # no place of their own, but EXIF's
        loaded = load_exif(exif)
        loaded[RESOLUTION["x"]], loaded[RESOLUTION["y"]], loaded[RESOLUTION["unit"]] = *meta.dpi, 2
        exif = _exif_bytes(loaded)
    if meta.icc:
        options["icc_profile"] = meta.icc
    if exif:
        options["exif"] = b"Exif\0\0" + exif
    if meta.xmp:
        options["xmp"] = meta.xmp
    if meta.dpi and kind in ("JPEG", "BMP"):
        options["dpi"] = meta.dpi
    if meta.comment and kind in ("JPEG", "GIF"):
        options["comment"] = meta.comment
    return options


def tiff_tags(meta: Meta) -> tuple[list[tiff.Tag], dict[int, Any]]:
    """Tags, and the directories that two of them point at."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = [tiff.Tag(number, kind, values) for number, kind, values in meta.geo]
    if meta.icc:
        tags.append(tiff.Tag(34675, 7, meta.icc))
    if meta.xmp:
        tags.append(tiff.Tag(700, 1, meta.xmp))
    if meta.dpi:
        tags += [tiff.Tag(282, 5, meta.dpi[:1]), tiff.Tag(283, 5, meta.dpi[1:]), tiff.Tag(296, 3, (2,))]
    inner: dict[int, Any] = {}
    said = load_exif(meta.exif)
    for number in KEPT_TAGS:
        value = said.get(number)
        if isinstance(value, str):
            tags.append(tiff.Tag(number, 2, value.encode("utf-8", "replace") + b"\0"))
    if meta.comment and 270 not in said:
        tags.append(tiff.Tag(270, 2, meta.comment.replace(b"\0", b" ") + b"\0"))
    for number in (EXIF_IFD, GPS_IFD):
        directory = ImageFileDirectory_v2()
        with contextlib.suppress(Exception):
            for tag, value in said.get_ifd(number).items():
                if tag not in (MAKER_NOTE, 0xA005):
                    directory[tag] = value
            directory.tobytes(0)
            if len(directory):
                inner[number] = directory
    return tags, inner
