# SPDX-License-Identifier: Apache-2.0
"""Image files: what is read, what is refused and how, and that a written file is whole or absent."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fastsr import image
from fastsr.errors import InputError, LimitError, OutputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(mode: str = "RGB", size: tuple[int, int] = (13, 9)) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    a = np.random.default_rng(1).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(a[:, :, 0] if channels == 1 else a)


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, ending: str, mode: str) -> None:
    img = noise(mode)
    image.write(img, tmp_path / f"a{ending}")
    back = image.read(tmp_path / f"a{ending}")
    visible = np.asarray(img.convert("RGBA"))[..., 3:] > 0  # WebP may drop the colour of what cannot be seen
    a, b = (np.asarray(i.convert("RGBA")) * visible for i in (img, back))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("ending", [".png", ".tif", ".ppm"])
def test_sixteen_bit_gray_stays(tmp_path: Path, ending: str) -> None:
    a = np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16)
    image.write(Image.fromarray(a), tmp_path / f"a{ending}")
    back = image.read(tmp_path / f"a{ending}")
    assert back.mode.startswith("I;16")
    assert np.array_equal(np.asarray(back), a)


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise().save(path, format="BMP")
    assert same(image.read(path), noise())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise().save(tmp_path / "a.png", exif=exif)
    img = image.read(tmp_path / "a.png")
    assert img.size == ((13, 9) if orientation < 5 else (9, 13))
    assert img.getexif().get(0x0112, 1) == 1
    assert img.getpixel((0, 0)) == noise().getpixel(
        {1: (0, 0), 2: (12, 0), 3: (12, 8), 4: (0, 8), 5: (0, 0), 6: (0, 8), 7: (12, 8), 8: (12, 0)}[orientation]
    )


def test_the_colour_profile_goes_along_and_exif_does_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    noise().save(tmp_path / "a.png", icc_profile=SRGB, exif=exif)
    image.write(image.read(tmp_path / "a.png"), tmp_path / "b.png")
    back = Image.open(tmp_path / "b.png")
    assert back.info["icc_profile"] == SRGB
    assert not back.getexif()


def test_a_phones_jpeg_with_a_preview_is_its_first_picture(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[noise("RGB", (4, 4))], quality=100)
    assert image.read(tmp_path / "a.jpg").size == (13, 9)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(w: int, h: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    noise().save(buffer, format=kind, **options)
    return buffer.getvalue()


REFUSED: dict[str, tuple[bytes, type[Exception], str]] = {
    "empty": (b"", InputError, "empty"),
    "text": (b"not an image at all", InputError, "not an image of a known kind"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", InputError, "not an image of a known kind"),
    "gif": (encoded("GIF"), InputError, "not an image of a known kind"),
    "bomb": (png_claiming(65536, 65536), LimitError, "above the limit"),
    "too many pixels": (png_claiming(10000, 9000), LimitError, "10000x9000 is above the limit of 89478485"),
    "animation": (encoded("WEBP", save_all=True, append_images=[noise("RGB").rotate(180)]), InputError, "2 frames"),
    "pages": (encoded("TIFF", save_all=True, append_images=[noise("RGB")]), InputError, "2 frames"),
    "no pixels": (png_claiming(9, 9), InputError, "cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, kind: str) -> None:
    content, error, message = REFUSED[kind]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as e:
        image.read(path)
    assert str(e.value).startswith(str(path))
    assert "\n" not in str(e.value)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        image.read(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="not a regular file"):
        image.read(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        image.read(tmp_path / ("n" * 300))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, kind: str) -> None:
    """Never a picture with a part filled in: what is read of a cut file is what the whole file holds."""
    content = encoded(kind)
    path = tmp_path / "a"
    path.write_bytes(content)
    whole = image.read(path)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        try:
            assert same(image.read(path), whole), f"{kind} cut to {size} of {len(content)} bytes gave other pixels"
        except InputError as e:
            assert str(path) in str(e)  # noqa: PT017


@pytest.mark.parametrize("content", ["P2\n3 2\n255\n1 22 3\n4 5 146\n", "P3 1 2 65535 1 22 33 4 5 46 "])
def test_a_text_image_cut_inside_its_last_number_is_refused(tmp_path: Path, content: str) -> None:
    """What is left of the number is one too: 146 becomes 14."""
    path = tmp_path / "a.ppm"
    path.write_text(content)
    whole = image.read(path)
    for size in range(len(content)):
        path.write_text(content[:size])
        with pytest.raises(InputError):
            image.read(path)
    path.write_text(f"{content}# and a remark 7")
    with pytest.raises(InputError, match="no white space after it"):
        image.read(path)
    path.write_text(content + "\n")
    assert same(image.read(path), whole)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_file_with_damage_never_gives_another_exception(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    content = encoded(kind)
    path = tmp_path / "a"
    for _ in range(150):
        bad = bytearray(content)
        for at in random.integers(0, len(bad), 3):
            bad[at] = random.integers(0, 256)
        path.write_bytes(bytes(bad))
        try:
            image.read(path)
        except (InputError, LimitError) as e:
            assert "\n" not in str(e)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", "unknown ending '.gif': use one of .png"),
        ("a", "unknown ending ''"),
        ("no/a.png", "folder .*no does not exist"),
        ("folder.png", "is a folder"),
    ],
)
def test_a_target_is_refused_before_the_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=message):
        image.check_target(tmp_path / name)


@pytest.mark.parametrize(
    ("mode", "name", "message"),
    [
        ("RGBA", "a.jpg", "JPEG cannot hold this transparent image"),
        ("LA", "a.bmp", "use .png"),
        ("I;16", "a.webp", "16-bit"),
        ("F", "a.png", "float image .*use .tif"),
        ("PA", "a.ppm", "transparent"),
    ],
)
def test_a_mode_that_the_format_lacks_is_refused_before_the_work(mode: str, name: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        image.check_fits(name, Image.new(mode, (4, 4)), 3)


def test_a_size_that_the_format_lacks_is_refused_before_the_work() -> None:
    image.check_fits("a.webp", Image.new("L", (5461, 1)), 3)
    with pytest.raises(OutputError, match="WEBP holds sides up to 16383 pixels, not 16386"):
        image.check_fits("a.webp", Image.new("L", (1, 5462)), 3)
    image.check_fits("a.png", Image.new("P", (60000, 1)), 3)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        image.write(noise(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    image.write(noise(), path)
    assert same(image.read(path), noise())


def test_cmyk_becomes_rgb() -> None:
    found = image.pixels(Image.new("CMYK", (3, 2), (0, 0, 0, 0)))
    assert found.array.shape == (2, 3, 3)
    assert found.array.min() >= 253
    with_profile = Image.new("CMYK", (3, 2), (0, 0, 0, 0))
    with_profile.info["icc_profile"] = SRGB  # of another colour space: Pillow's rule is taken, the profile dropped
    found = image.pixels(with_profile)
    assert "icc_profile" not in found.restore(found.array).info
