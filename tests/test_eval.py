# SPDX-License-Identifier: Apache-2.0
"""The protocol: bicubic gives the literature's figures, and each stage is what its definition says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import fastsr
from fastsr import InputError, _core, metrics
from fastsr.evaluate import evaluate, evaluate_folder, protocol
from fastsr.testing import rng, script


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (25, 22), seed: int = 0) -> np.ndarray:
    channels = {"L": 1, "RGB": 3}[mode]
    a = rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(a[:, :, 0] if channels == 1 else a).save(path, lossless=True)
    return a


@pytest.mark.parametrize(("scale", "psnr"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_bicubic_has_the_psnr_of_the_literature(shared: Path, scale: int, psnr: float) -> None:
    row = evaluate_folder(protocol.Bicubic(scale), shared / "data/test/Set5")
    assert row["psnr_y"] == pytest.approx(psnr, abs=0.005)
    assert (row["model"], row["data"], row["images"]) == ("bicubic", "Set5", 5)


def test_the_shipped_models_have_the_psnr_they_claim(shared: Path) -> None:
    for model in fastsr.models():
        row = evaluate_folder(fastsr.load(model.name), shared / "data/test/Set5")
        assert row["psnr_y"] == pytest.approx(model.psnr["Set5"], abs=0.006), model.name


@pytest.fixture(scope="module")
def matlab(shared: Path) -> ModuleType:
    return script(shared / "tools/matlab_resize.py")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_lr_image_is_matlabs(matlab: ModuleType, scale: int) -> None:
    x = rng(scale).random((24 * scale, 17 * scale), dtype=np.float32)
    lr = _core.resize_bicubic(x[None], 24, 17, scale=1 / scale)[0]
    assert np.abs(lr - matlab.imresize(x, 1 / scale)).max() < 1e-6


@pytest.mark.parametrize("scale", [2, 3])
def test_a_folder_is_measured_as_the_reference_tool_does(matlab: ModuleType, tmp_path: Path, scale: int) -> None:
    for i, name in enumerate(("a.png", "b.bmp", "c.webp")):
        save(tmp_path / name, "L" if i == 1 else "RGB", (25 + i, 22), i)
    row = evaluate_folder(protocol.Bicubic(scale), tmp_path)
    want = [matlab.bic(str(path), scale, "srcnn") for path in protocol.files(tmp_path)]
    assert row["psnr_y"] == pytest.approx(np.mean(want), abs=0.01)


def test_rgb_models_are_measured_on_eight_bit_lr(matlab: ModuleType, tmp_path: Path) -> None:
    class BicubicRgb(protocol.Bicubic):
        domain = "rgb"

    save(tmp_path / "a.png")
    save(tmp_path / "b.png", "L", seed=1)
    row = evaluate_folder(BicubicRgb(2), tmp_path)
    want = [matlab.bic(str(path), 2, "rgb8") for path in protocol.files(tmp_path)]
    assert row["psnr_y"] == pytest.approx(np.mean(want), abs=0.03)


def test_y(tmp_path: Path) -> None:
    rgb = save(tmp_path / "a.png").astype(float)
    y = np.floor(16 + (65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]) / 255 + 0.5)
    assert np.array_equal(protocol.load_y(tmp_path / "a.png"), y)
    gray = save(tmp_path / "b.png", "L")[:, :, 0]
    assert np.array_equal(protocol.load_y(tmp_path / "b.png"), gray)
    for path in (tmp_path / "Set14" / "bridge.webp", tmp_path / "Set14" / "c.webp"):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(gray).convert("RGB").save(path, lossless=True)
    assert np.array_equal(protocol.load_y(tmp_path / "Set14" / "bridge.webp"), gray)  # gray in the published set
    assert np.array_equal(protocol.load_y(tmp_path / "Set14" / "c.webp"), np.floor(16 + gray * (219 / 255) + 0.5))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "d.png")
    assert np.array_equal(protocol.load_y(tmp_path / "d.png"), gray)


def test_a_model_is_measured_through_its_run(small_model: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    save(data / "a.png")
    net = fastsr.load(small_model())
    hr = metrics.modcrop(protocol.load_y(data / "a.png"), 2)
    x = (hr / np.float32(255))[None].astype(np.float32)
    out = metrics.to_uint8(net.run(_core.resize_bicubic(x, hr.shape[0] // 2, hr.shape[1] // 2))[0])
    row = evaluate_folder(net, data)
    assert row["psnr_y"] == pytest.approx(metrics.psnr(hr[2:-2, 2:-2], out[2:-2, 2:-2]), abs=1e-4)
    assert row["ssim_y"] == pytest.approx(metrics.ssim(hr[2:-2, 2:-2], out[2:-2, 2:-2]), abs=1e-4)
    assert evaluate_folder(fastsr.load(small_model(domain="rgb")), data)["psnr_y"] > 5


def test_folders_of_folders(tmp_path: Path) -> None:
    for name in ("B", "A"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "a.png")
    (tmp_path / "empty").mkdir()
    assert [row["data"] for row in evaluate(protocol.Bicubic(2), tmp_path)] == ["A", "B"]
    flat = tmp_path / "A" / "a.png"
    Image.new("L", (24, 24), 99).save(flat)
    [row] = evaluate(protocol.Bicubic(2), tmp_path / "A")
    assert (row["psnr_y"], row["ssim_y"]) == (None, 1.0)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no", "no such folder"), (tmp_path, "no images")):
        with pytest.raises(InputError, match=message):
            evaluate(protocol.Bicubic(2), path)
    save(tmp_path / "tiny.png", size=(8, 30))
    with pytest.raises(InputError, match=r"tiny\.png: SSIM needs at least 11x11"):
        evaluate(protocol.Bicubic(2), tmp_path)
    (tmp_path / "tiny.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"tiny\.png: the file is empty"):
        evaluate(protocol.Bicubic(2), tmp_path)
