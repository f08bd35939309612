# SPDX-License-Identifier: Apache-2.0
"""What comes out of a file is what went in, larger: samples, alpha, words, frames. Compared by readers that are not ours."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

import fastsr
from fastsr.testing import script

making: Any = script(Path(__file__).parent / "making.py")
photo, halved, read_any, write_png = making.photo, making.halved, making.read_any, making.write_png

Up = Callable[..., tuple[int, str]]


def assert_same_picture(out: np.ndarray, given: np.ndarray, share: float = 0.03) -> None:
    """The mean of 2 x 2 is the input's pixel, but for a share of its range."""
    assert out.shape == (2 * given.shape[0], 2 * given.shape[1], given.shape[2])
    assert np.dtype(out.dtype).newbyteorder("=") == np.dtype(given.dtype).newbyteorder("=")
    span = float(given.max()) - float(given.min())
    off = np.abs(halved(out) - given.astype(np.float64))
    assert off.mean() < share * span / 3 + 1e-9
    assert off.max() < 3 * share * span + 1e-9


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_depth_and_channels_stay(up: Up, channels: int, dtype: Any, ending: str) -> None:
    given = photo(channels, dtype, np.iinfo(dtype).max)
    write_png("a.png", given)
    assert up("a.png", "-o", f"o.{ending}") == (0, "")
    out = read_any(f"o.{ending}")
    assert_same_picture(out, given)
    if dtype == np.uint16:
        assert len(np.unique(out)) > 500  # no 8 bits in 16


RASTERS: dict[str, tuple[int, Any, float, float, dict[str, Any]]] = {
    "float32 RGB": (3, np.float32, 1, 0, {"photometric": "rgb"}),
    "float64 gray": (1, np.float64, 1, 0, {"photometric": "minisblack"}),
    "float16 RGB": (3, np.float16, 1, 0, {"photometric": "rgb"}),
    "reflectance": (1, np.float32, 9000, 0, {"photometric": "minisblack"}),
    "heights": (1, np.float32, 2500, -300, {"photometric": "minisblack"}),
    "signed 16": (1, np.int16, 9000, -7000, {"photometric": "minisblack"}),
    "unsigned 32": (1, np.uint32, 4e9, 0, {"photometric": "minisblack"}),
    "signed 8": (1, np.int8, 127, -128, {"photometric": "minisblack"}),
    "five bands": (5, np.uint8, 255, 0, {"photometric": "rgb"}),
    "six planes": (6, np.uint16, 65535, 0, {"photometric": "minisblack", "planarconfig": "separate"}),
    "tiles": (3, np.uint16, 65535, 0, {"photometric": "rgb", "tile": (16, 16)}),
    "RGB and infrared": (4, np.uint16, 65535, 0, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "deflate": (3, np.uint16, 65535, 0, {"photometric": "rgb", "compression": "zlib"}),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", RASTERS)
def test_rasters_keep_samples_and_bands(up: Up, kind: str, order: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    channels, dtype, high, low, options = RASTERS[kind]
    given = photo(channels, dtype, high, low)
    data = given.transpose(2, 0, 1) if "planarconfig" in options else given[..., 0] if channels == 1 else given
    tifffile.imwrite("a.tif", data, metadata=None, byteorder=order, **options)
    code, err = up("a.tif", "-o", "o.tif")
    assert code == 0, err
    assert_same_picture(read_any("o.tif"), given)
    assert ("own range" in err) == (low != 0 or high > 1 and given.dtype not in (np.uint8, np.uint16))


def test_rasters_that_are_refused_are_named(up: Up) -> None:
    tifffile = pytest.importorskip("tifffile")
    a = photo(1, np.float32, 1)[..., 0]
    a[3, 4] = np.nan
    tifffile.imwrite("nan.tif", a, photometric="minisblack", metadata=None)
    tifffile.imwrite("complex.tif", a.astype(np.complex64), photometric="minisblack", metadata=None)
    tifffile.imwrite("bands.tif", photo(5, np.uint8, 255), photometric="rgb", metadata=None)
    tifffile.imwrite("signed.tif", photo(1, np.int16, 99)[..., 0], photometric="minisblack", metadata=None)
    for name, out, message in (
        ("nan.tif", "o.tif", "the float32 gray image holds nan or infinity"),
        ("complex.tif", "o.tif", "complex samples"),
        ("bands.tif", "o.png", "PNG cannot hold this 8-bit 5-band image: use .tif"),
        ("signed.tif", "o.png", "PNG cannot hold this signed 16-bit gray image: use .tif"),
    ):
        code, err = up(name, "-o", out)
        assert code
        assert message in err
        assert not Path(out).exists()


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "group4", "jpeg"])
def test_tiff_compressions(up: Up, compression: str) -> None:
    given = Image.fromarray(photo(1 if compression == "group4" else 3, np.uint8, 255)[..., :3].squeeze())
    given = given.convert("1") if compression == "group4" else given
    given.save("a.tif", compression=compression)
    given.save("a.png")
    assert up("a.tif", "-o", "t.png")[0] == up("a.png", "-o", "p.png")[0] == 0
    off = np.abs(read_any("t.png").astype(int) - read_any("p.png"))
    assert off.max() <= (60 if compression == "jpeg" else 0)


def test_a_transparent_colour_of_16_bits(up: Up) -> None:
    gray = np.full((12, 12, 1), 40000, np.uint16)
    gray[:, :6] = 7
    write_png("g.png", gray, making.chunk(b"tRNS", struct.pack(">H", 7)))
    write_png("c.png", gray.repeat(3, 2), making.chunk(b"tRNS", struct.pack(">3H", 7, 7, 7)))
    for name, channels in (("g", 2), ("c", 4)):
        assert up(f"{name}.png", "-o", "o.png") == (0, "")
        out = read_any("o.png")
        assert out.shape == (24, 24, channels)
        assert (out[:, :8, -1] == 0).all()
        assert (out[:, 16:, -1] == 65535).all()


@pytest.mark.parametrize("ending", ["ppm", "pfm", "pam"])
def test_deep_netpbm(up: Up, ending: str) -> None:
    given = photo(3, np.uint16, 65535)
    if ending == "ppm":
        Path("a.ppm").write_bytes(b"P6\n# a word\n28 20\n65535\n" + given.astype(">u2").tobytes())
        assert up("a.ppm", "-o", "o.ppm") == (0, "")
        head, body = Path("o.ppm").read_bytes()[:17], Path("o.ppm").read_bytes()[17:]
        assert head == b"P6\n56 40\n65535\n" + body[:0] or head.startswith(b"P6\n56 40\n65535\n")
        out = np.frombuffer(Path("o.ppm").read_bytes()[15:], ">u2").reshape(40, 56, 3)
        assert_same_picture(out, given)
    elif ending == "pfm":
        floats = photo(3, np.float32, 1)
        Path("a.pfm").write_bytes(b"PF\n28 20\n-1.0\n" + floats[::-1].astype("<f4").tobytes())
        assert up("a.pfm", "-o", "o.tif") == (0, "")
        assert_same_picture(read_any("o.tif"), floats)
    else:
        rgba = photo(4, np.uint8, 255)
        Path("a.pam").write_bytes(
            b"P7\nWIDTH 28\nHEIGHT 20\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + rgba.tobytes()
        )
        assert up("a.pam", "-o", "o.png") == (0, "")
        assert_same_picture(read_any("o.png"), rgba)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "16.png", "16.tif"])
def test_orientation_is_applied_once(up: Up, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112], exif[0x110] = orientation, "Camera"
    given = Image.fromarray(photo(3, np.uint8, 255, h=10, w=16))
    if ending == "16.png":
        write_png("a.16.png", photo(3, np.uint16, 65535, h=10, w=16), making.chunk(b"eXIf", exif.tobytes()[6:]))
    elif ending == "16.tif":
        tifffile = pytest.importorskip("tifffile")
        a = photo(3, np.uint16, 65535, h=10, w=16)
        tifffile.imwrite("a.16.tif", a, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)])
    else:
        options: dict[str, Any] = (
            {"lossless": True} if ending == "webp" else {"quality": 100} if ending == "jpg" else {}
        )
        given.save(f"a.{ending}", exif=exif, **options)
    assert up(f"a.{ending}", "-o", "o.png")[0] == 0
    turned = Image.new("RGB", given.size)
    turned.paste(given)
    turned.getexif()[0x112] = orientation
    want = np.asarray(ImageOps.exif_transpose(turned))
    out = read_any("o.png").astype(np.float64)
    assert out.shape == (2 * want.shape[0], 2 * want.shape[1], 3)
    assert np.abs(halved(out) / (257 if "16" in ending else 1) - want).mean() < 3
    with Image.open("o.png") as im:
        assert im.getexif().get(0x112, 1) == 1


def p3_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", profile[128:132])[0]):
        name, at, _ = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
        colorant = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189)}.get(name)
        if colorant:
            profile[at + 8 : at + 20] = struct.pack(">3i", *(round(v * 65536) for v in colorant))
    return bytes(profile)


@pytest.mark.parametrize("source", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("target", ["png", "jpg", "webp", "tif", "avif"])
def test_exif_xmp_profile_and_resolution_go_along(up: Up, source: str, target: str) -> None:
    exif = Image.Exif()
    exif[0x110], exif[0x132], exif[0x112] = "Camera 1", "2020:01:02 03:04:05", 6
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0xA002], inner[0xA003] = "2019:01:02 03:04:05", 28, 20
    exif.get_ifd(0x8825)[1] = "N"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    image, icc, options = Image.fromarray(photo(3, np.uint8, 255)), p3_profile(), {}
    if source == "png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = text
    elif source == "tif":
        exif[700] = xmp
    else:
        options["xmp"] = xmp
    image.save(f"a.{source}", exif=exif, icc_profile=icc, dpi=(300, 300), **options)
    code, err = up(f"a.{source}", "-o", f"o.{target}")
    assert (code, err) == (0, "")
    with Image.open(f"o.{target}") as out:
        assert out.info["icc_profile"] == icc
        said = out.getexif()
        assert (said[0x110], said[0x132], said.get(0x112, 1)) == ("Camera 1", "2020:01:02 03:04:05", 1)
        assert said.get_ifd(0x8769)[0x9003] == "2019:01:02 03:04:05"
        if source != "tif":
            assert (said.get_ifd(0x8769)[0xA002], said.get_ifd(0x8769)[0xA003]) == (40, 56)
        assert said.get_ifd(0x8825)[1] == "N"
        kept = out.info.get("xmp") or out.tag_v2[700]
        assert b'tiff:Orientation="1"' in kept
        if source != "webp":  # which has no place for it but EXIF, and Pillow wrote none there
            dpi = out.info.get("dpi") or (said[282], said[283])
            assert float(dpi[0]) == pytest.approx(300, abs=0.1)
        assert out.size == (40, 56)


def test_what_is_dropped_is_said(up: Up) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a kitten, steps 20")
    Image.fromarray(photo(3, np.uint8, 255)).save("a.png", pnginfo=text)
    assert up("a.png", "-o", "o.png") == (0, "")
    with Image.open("o.png") as im:
        assert im.info["parameters"] == "a kitten, steps 20"
    assert up("a.png", "-o", "o.jpg") == (
        0,
        "fastsr: note: a.png: JPEG does not hold all that the file says; dropped: PNG text\n",
    )
    assert up("a.png", "-o", "n.png", "--no-metadata") == (0, "")
    with Image.open("n.png") as im:
        assert "parameters" not in im.info
    write_png("d.png", photo(3, np.uint16, 65535))
    assert up("d.png", "-o", "o.jpg") == (0, "fastsr: note: d.png: 16 bits become 8: JPEG holds no more\n")


def test_colour_chunks_stay(up: Up) -> None:
    extra = making.chunk(b"gAMA", struct.pack(">I", 100000)) + making.chunk(b"cICP", b"\x09\x10\0\1")
    write_png("a.png", photo(3, np.uint16, 65535), extra)
    assert up("a.png", "-o", "o.png") == (0, "")
    kept = dict(making.chunks("o.png"))
    assert kept[b"gAMA"] == struct.pack(">I", 100000)
    assert kept[b"cICP"] == b"\x09\x10\0\1"
    assert "PNG colour chunks" in up("a.png", "-o", "o.tif")[1]


@pytest.mark.parametrize("ending", ["bmp", "ppm", "tga"])
def test_a_profile_is_applied_where_none_can_be_held(up: Up, ending: str) -> None:
    Image.new("RGB", (8, 8), (200, 40, 40)).save("a.png", icc_profile=p3_profile())
    code, err = up("a.png", "-o", f"o.{ending}")
    assert (code, "the result is sRGB" in err) == (0, True)
    want = ImageCms.profileToProfile(
        Image.new("RGB", (1, 1), (200, 40, 40)),
        ImageCms.ImageCmsProfile(io.BytesIO(p3_profile())),
        ImageCms.createProfile("sRGB"),
    )
    assert want is not None
    assert np.abs(read_any(f"o.{ending}")[8, 8].astype(int) - want.getpixel((0, 0))).max() <= 2


def test_a_gray_picture_does_not_keep_an_rgb_profile(up: Up) -> None:
    Image.fromarray(photo(1, np.uint8, 255)[..., 0]).save("a.jpg", icc_profile=p3_profile())
    code, err = up("a.jpg", "-o", "o.png")
    assert (code, "RGB profile of a picture that is gray" in err) == (0, True)
    assert b"iCCP" not in dict(making.chunks("o.png"))


@pytest.mark.parametrize("point", [False, True])
def test_a_georeference_is_divided(up: Up, point: bool) -> None:
    tifffile = pytest.importorskip("tifffile")
    keys = (1, 1, 0, 2, 1025, 0, 1, 2 if point else 1, 3072, 0, 1, 32632)
    tags = [
        (33550, "d", 3, (10.0, 20.0, 0.0), True),
        (33922, "d", 6, (4.0, 6.0, 0.0, 500000.0, 4600000.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
        (42113, "s", 0, "-9999", True),
    ]
    tifffile.imwrite("a.tif", photo(3, np.uint8, 255), photometric="rgb", metadata=None, extratags=tags)
    assert up("a.tif", "-o", "o.tif") == (0, "")
    with tifffile.TiffFile("o.tif") as out:
        found = out.pages[0].tags
        assert found[33550].value == (5.0, 10.0, 0.0)
        assert found[33922].value == ((8.5, 12.5) if point else (8.0, 12.0)) + (0.0, 500000.0, 4600000.0, 0.0)
        assert found[34735].value == keys
        assert found[42113].value == "-9999"
    assert "dropped: georeference" in up("a.tif", "-o", "o.png")[1]


@pytest.mark.parametrize("source", ["gif", "webp", "png"])
@pytest.mark.parametrize("target", ["gif", "webp", "png"])
def test_animations_keep_frames_and_times(up: Up, source: str, target: str) -> None:
    frames = [Image.fromarray(np.roll(photo(3, np.uint8, 255), 5 * i, 1)) for i in range(3)]
    frames[0].save(f"a.{source}", save_all=True, append_images=frames[1:], duration=[50, 70, 90], loop=2)
    assert up(f"a.{source}", "-o", f"o.{target}") == (0, "")
    with Image.open(f"o.{target}") as out:
        assert (out.n_frames, out.size) == (3, (56, 40))
        assert out.info["loop"] == 2
        for number, (frame, duration) in enumerate(zip(frames, (50, 70, 90), strict=True)):
            out.seek(number)
            out.load()
            assert out.info["duration"] == duration
            off = halved(np.asarray(out.convert("RGB"))) - np.asarray(frame)
            assert np.abs(off).mean() < 12  # a GIF has 256 colours


def test_pages_stay_and_are_not_cut(up: Up) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter("a.tif") as file:
        for h in (8, 12, 10):
            file.write(photo(3, np.uint8, 255, h=h), photometric="rgb", metadata=None)
    assert up("a.tif", "-o", "o.tif") == (0, "")
    with tifffile.TiffFile("o.tif") as out:
        assert [page.shape for page in out.pages] == [(16, 56, 3), (24, 56, 3), (20, 56, 3)]
    code, err = up("a.tif", "-o", "o.png")
    assert (code, "PNG holds one picture, not 3 pages: use .tif" in err) == (5, True)
    Image.new("RGB", (28, 8), (9, 200, 0)).save(
        "g.gif", save_all=True, append_images=[Image.new("RGB", (28, 8))], duration=40
    )
    code, err = up("g.gif", "-o", "o.jpg")
    assert (code, "JPEG holds one picture, not 2 frames" in err) == (5, True)


@pytest.mark.parametrize("name", ["a.gif", "a.tga", "a.dds", "a.jp2", "a.avif", "a.jfif", "a.bmp"])
def test_further_formats_are_read(up: Up, name: str) -> None:
    given = photo(3, np.uint8, 255)
    try:
        Image.fromarray(given).save(name, **({"format": "JPEG"} if name == "a.jfif" else {}))
    except (KeyError, OSError, ValueError):
        pytest.skip("this Pillow does not write it")
    assert up(name, "-o", "o.png")[0] == 0
    assert np.abs(halved(read_any("o.png")[..., :3]) - given).mean() < 10


def test_what_is_no_picture_of_ours_is_named(up: Up) -> None:
    for magic, what in (
        (b"8BPS", "Photoshop"),
        (b"%PDF", "PDF"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"\0\0\1\0", "ICO"),
    ):
        Path("a.png").write_bytes(magic + bytes(100))
        code, err = up("a.png", "-o", "o.png")
        assert (code, f"a.png: is a file of {what}" in err) == (2, True), err


def test_cmyk_is_said(up: Up) -> None:
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save("a.jpg", quality=95)
    assert up("a.jpg", "-o", "o.png") == (0, "fastsr: note: a.jpg: CMYK becomes RGB\n")
    assert np.abs(read_any("o.png")[8, 8].astype(int) - (0, 255, 255)).max() < 10


def test_the_png_is_what_the_api_gives(up: Up) -> None:
    for channels in (1, 3, 4):
        a = photo(channels, np.uint8, 255)
        a[..., -1] = 255 if channels == 4 else a[..., -1]
        write_png("a.png", a)
        assert up("a.png", "-o", "o.png")[0] == 0
        assert np.array_equal(read_any("o.png"), fastsr.load("annet_x2").upscale(a))


def test_opaque_alpha_is_no_reason_to_refuse(up: Up) -> None:
    a = photo(4, np.uint8, 255)
    a[..., 3] = 255
    write_png("a.png", a)
    assert up("a.png", "-o", "o.jpg") == (0, "")
    a[3, 4, 3] = 254
    write_png("a.png", a)
    code, err = up("a.png", "-o", "o.jpg")
    assert (code, "JPEG cannot hold this transparent image" in err) == (5, True)
