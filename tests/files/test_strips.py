# SPDX-License-Identifier: Apache-2.0
"""A picture that goes by strips is the picture that goes whole, to the bit; and within its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsr
from fastsr import _core, strips
from fastsr.testing import rng, script

making: Any = script(Path(__file__).parent / "making.py")
Up = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["annet_x3", "btsrn_x2", "srcnn_955_x3", "crnet_a_small_x2"])
def test_strips_are_the_whole(name: str, channels: int) -> None:
    net = fastsr.load(name, device="cpu")
    radius = net.info()["radius"]
    around = strips.halo(radius, channels == 4)
    height = 2 * around + 48 + 13
    a = rng(0).random((height, 17, channels)).astype(np.float32)
    if channels == 4:
        a[..., 3] = np.where(a[..., 3] < 0.4, 0, a[..., 3])
        a[50:80, :, 3] = 0
    whole = net.upscale(a)
    made = list(strips.enlarged(net.upscale, lambda begin, end: a[begin:end], height, 48, around))
    assert np.array_equal(np.concatenate(made), whole)


@pytest.mark.parametrize("source", ["png", "tif"])
@pytest.mark.parametrize("target", ["png", "tif"])
def test_a_file_by_strips(up: Up, monkeypatch: pytest.MonkeyPatch, source: str, target: str) -> None:
    a = rng(1).integers(0, 65536, (400, 90, 3)).astype(np.uint16)
    making.write_png("a.png", a)
    if source == "tif":
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite("a.tif", a, photometric="rgb", tile=(32, 48), metadata=None)
    assert up(f"a.{source}", "-o", f"whole.{target}") == (0, "")
    monkeypatch.setattr(strips, "resident", lambda: 10**9)  # no memory is left for anything
    seen = []
    enlarged = strips.enlarged
    monkeypatch.setattr(strips, "enlarged", lambda *given: seen.append(given) or enlarged(*given))
    assert up(f"a.{source}", "-o", f"strips.{target}", "--memory-limit", "100MB") == (0, "")
    assert len(seen) == 1
    assert np.array_equal(making.read_any(f"strips.{target}"), making.read_any(f"whole.{target}"))


def test_above_the_limit_of_pixels(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastsr import image
    from fastsr.files import reading

    making.write_png("a.png", making.photo(1, np.uint8, 255, h=60, w=60))
    limited = lambda name, most=2000: original(name, None if most is None else 2000)  # noqa: E731
    original = reading.open_picture
    monkeypatch.setattr("fastsr.batch.open_picture", limited)
    monkeypatch.setattr(image, "MAX_PIXELS", 2000)
    code, err = up("a.png", "-o", "o.png")
    assert (code, "above the limit of 2000 pixels: --memory-limit lifts it" in err) == (4, True)
    assert up("a.png", "-o", "o.png", "--memory-limit", "300MB") == (0, "")
    assert making.read_png("o.png").shape == (120, 120, 1)


def test_memory_stays_within_the_limit(tmp_path: Path) -> None:
    """A picture whose result alone is 108 MB, within 150 MB of the whole process."""
    a = np.zeros((3000, 3000, 3), np.uint8)
    a[..., 0] = np.arange(3000) % 256
    making.write_png(tmp_path / "a.png", a)
    command = [sys.executable, "-m", "fastsr", "upscale", "a.png", "-o", "o.png", "-m", "annet_x2"]
    command += ["--memory-limit", "150MB", "--device", "cpu"]
    # Linux counts what the parent held into a child's peak: one that holds little starts it.
    waiting = f"import os; p = os.posix_spawn({sys.executable!r}, {command!r}, os.environ)"
    waiting += "; _, status, usage = os.wait4(p, 0); print(status, usage.ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", waiting], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    status, peak = map(int, done.stdout.split())
    assert status == 0
    assert peak * 1024 < 150e6


def test_hidden_colours_do_not_bleed_and_stay() -> None:
    y, x = np.mgrid[:40, :40]
    disc = (y - 19.5) ** 2 + (x - 19.5) ** 2 < 150
    a = np.zeros((40, 40, 4), np.uint8)
    a[..., :3] = (255, 0, 0)
    a[disc] = 255
    a[:6, :6, :3] = (1, 2, 3)
    for name in ("annet_x3", "btsrn_x2"):
        net = fastsr.load(name, device="cpu")
        out = net.upscale(a).astype(float)
        share = out[..., 3:] / 255
        assert (out[..., :3] * share + 255 * (1 - share)).min() > 240
        clear = out[..., 3] == 0
        assert (out[clear][:, 0] >= 1).all()
        assert (out[: 6 * net.scale, : 6 * net.scale, :3] == (1, 2, 3)).all()
        assert (out[-net.scale :, -net.scale :] == (255, 0, 0, 0)).all()


def test_extension_takes_the_mean_of_what_is_seen() -> None:
    a = np.zeros((1, 6, 2), np.uint8)
    a[0, :, 0] = (9, 9, 9, 9, 9, 100)
    a[0, 5, 1] = 255
    out = _core.Pixels(a).visible(0).array
    assert out[0, :, 0].tolist() == [9, 9, 100, 100, 100, 100]
    assert np.array_equal(out[..., 1], a[..., 1])


def test_all_transparent_keeps_its_colours() -> None:
    a = rng(2).integers(0, 256, (5, 7, 4)).astype(np.uint8)
    a[..., 3] = 0
    out = fastsr.load("annet_x2", device="cpu").upscale(a)
    assert np.array_equal(out, a.repeat(2, 0).repeat(2, 1))
