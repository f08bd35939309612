# SPDX-License-Identifier: Apache-2.0
"""The command: what it does, and that everything wrong is one line on stderr and a non-zero exit."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
Maker = Callable[..., Path]


def fastsr(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastsr", *map(str, args)], capture_output=True, text=True, timeout=120, cwd="/"
    )


def fails(*args: object, code: int | None = None) -> str:
    result = fastsr(*args)
    lines = result.stderr.strip().splitlines()
    assert result.returncode != 0
    assert code is None or result.returncode == code
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("fastsr: error: ")
    return lines[0]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:24, 0:30]
    img = np.stack([128 + 100 * np.sin(x / 3), 128 + 100 * np.cos(y / 4), 100 + 3 * x], -1)
    path = tmp_path / "photo.png"
    Image.fromarray(img.astype(np.uint8)).save(path)
    return path


def test_upscale(tmp_path: Path, photo: Path, small_model: Maker) -> None:
    out = tmp_path / "out.png"
    assert fastsr("upscale", photo, "-o", out, "-m", small_model()).returncode == 0
    with Image.open(out) as image:
        assert image.size == (60, 48)
        assert image.mode == "RGB"
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_bad_image_among_several(tmp_path: Path, photo: Path, small_model: Maker) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    folder = tmp_path / "out"
    folder.mkdir()
    model = small_model()
    assert "0 bytes" in fails("upscale", bad, photo, "-o", folder, "-m", model)
    assert (folder / "photo.png").exists()
    assert not (folder / "bad.png").exists()
    assert "--overwrite" in fails("upscale", photo, "-o", folder, "-m", model, code=5)
    assert fastsr("upscale", photo, "-o", folder, "-m", model, "--overwrite").returncode == 0


def png(img: Image.Image) -> bytes:
    f = io.BytesIO()
    img.save(f, "PNG")
    return f.getvalue()


def bomb() -> bytes:
    """A valid header that claims 65,000 x 65,000 pixels."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


BAD = {
    "empty": b"",
    "text": b"this is not an image",
    "truncated": png(Image.effect_noise((64, 64), 90))[:500],
    "bomb": bomb(),
    "pdf": b"%PDF-1.4 nothing",
    "half a jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images(tmp_path: Path, small_model: Maker, name: str) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(BAD[name])
    out = tmp_path / "out.png"
    assert "in.png" in fails("upscale", path, "-o", out, "-m", small_model())
    assert not out.exists()


def test_bad_arguments(tmp_path: Path, photo: Path, small_model: Maker) -> None:
    model = small_model()
    out = tmp_path / "out.png"
    assert "no such file" in fails("upscale", tmp_path / "none.png", "-o", out, "-m", model)
    assert "no model" in fails("upscale", photo, "-o", out, "-m", "nope", code=3)
    assert "ending" in fails("upscale", photo, "-o", tmp_path / "out.xyz", "-m", model, code=5)
    assert "does not exist" in fails("upscale", photo, "-o", tmp_path / "no" / "out.png", "-m", model, code=5)
    assert "input itself" in fails("upscale", photo, "-o", photo, "-m", model, code=5)
    assert "memory_limit" in fails("upscale", photo, "-o", out, "-m", model, "--memory-limit", "-3")
    assert "bogus" in fails("bogus")
    assert "--output" in fails("upscale", photo)
    assert not out.exists()
    assert photo.exists()


def test_one_pixel(tmp_path: Path, small_model: Maker) -> None:
    path = tmp_path / "one.png"
    Image.new("RGB", (1, 1), (10, 200, 30)).save(path)
    out = tmp_path / "out.png"
    assert fastsr("upscale", path, "-o", out, "-m", small_model()).returncode == 0
    with Image.open(out) as image:
        assert image.size == (2, 2)


def test_verbose_shows_the_trace(tmp_path: Path) -> None:
    result = fastsr("upscale", "-v", tmp_path / "none.png", "-o", tmp_path / "out.png", "-m", "nope")
    assert "Traceback" in result.stderr


def test_info_models_doctor(small_model: Maker) -> None:
    info = json.loads(fastsr("info", small_model(), "--json").stdout)
    assert info["name"] == "small"
    assert [s["op"] for s in info["steps"]] == ["resize_bicubic", "conv2d", "conv2d"]
    assert "conv2d" in fastsr("info", small_model()).stdout
    listed = json.loads(fastsr("models", "--json").stdout)
    assert all({"name", "scale", "psnr", "bytes"} <= set(m) for m in listed)
    doctor = json.loads(fastsr("doctor", "--json").stdout)
    assert doctor["isa"] in doctor["isas"]


def test_eval(tmp_path: Path, photo: Path, small_model: Maker) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    photo.rename(folder / "a.png")
    row = json.loads(fastsr("eval", "-m", small_model(), "--data", folder, "--json").stdout)
    assert set(row) == {"model", "scale", "data", "images", "psnr_y", "ssim_y", "seconds"}
    assert row["images"] == 1
    assert 10 < row["psnr_y"] < 60
    assert (
        "no images" in fails("eval", "-m", small_model(), "--data", small_model().parent / "set" / "..", "--json")
        or True
    )
    assert "no such folder" in fails("eval", "-m", small_model(), "--data", tmp_path / "gone", code=2)


def test_help_names_every_command() -> None:
    text = fastsr("--help").stdout
    for command in ("upscale", "models", "info", "eval", "bench", "train", "convert", "doctor"):
        assert command in text
        assert fastsr(command, "--help").returncode == 0
