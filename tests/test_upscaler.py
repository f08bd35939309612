# SPDX-License-Identifier: Apache-2.0
"""load and Upscaler: every kind of image comes back as its kind; bad input gets one clear line."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastsr
from fastsr import _core, color, executors, modelfile
from fastsr.errors import DeviceError, InputError, LimitError, ModelError
from fastsr.testing import assert_matches

torch = pytest.importorskip("torch")
Maker = Callable[..., Path]
RNG = np.random.default_rng(3)


@pytest.fixture
def upscaler(small_model: Maker) -> fastsr.Upscaler:
    return fastsr.load(small_model())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4), (1, 1), (1, 5, 3)])
def test_numpy(upscaler: fastsr.Upscaler, dtype: Any, shape: tuple[int, ...]) -> None:
    img = RNG.random(shape).astype(np.float32)
    img = img if dtype == np.float32 else (img * np.iinfo(dtype).max).astype(dtype)
    out = upscaler.upscale(img)
    assert out.dtype == dtype
    assert out.shape == (2 * shape[0], 2 * shape[1], *shape[2:])


def test_colour_is_y_by_the_network_and_chroma_by_bicubic(small_model: Maker) -> None:
    path = small_model()
    img = RNG.random((12, 10, 3), dtype=np.float32) * 0.5 + 0.25
    out = fastsr.load(path).upscale(img).transpose(2, 0, 1)
    model = modelfile.read(path)
    ycbcr = color.rgb_to_ycbcr(np.ascontiguousarray(img.transpose(2, 0, 1)))
    y = executors.get("reference").prepare(model.plan, model.weights, precision="fp64").run(ycbcr[:1])
    chroma = _core.resize_bicubic(np.ascontiguousarray(ycbcr[1:]), 24, 20)
    expected = np.clip(color.ycbcr_to_rgb(np.concatenate([y.astype(np.float32), chroma])), 0, 1)
    assert_matches(out, expected.astype(np.float64))


def test_ycbcr_is_matlabs() -> None:
    rgb = RNG.random((3, 5, 4), dtype=np.float32)
    y = (16 + 65.481 * rgb[0] + 128.553 * rgb[1] + 24.966 * rgb[2]) / 255
    assert_matches(color.rgb_to_ycbcr(rgb)[0], y.astype(np.float64))
    assert_matches(color.ycbcr_to_rgb(color.rgb_to_ycbcr(rgb)), rgb.astype(np.float64))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P", "CMYK", "I;16", "F"])
def test_pil(upscaler: fastsr.Upscaler, mode: str) -> None:
    gray = (RNG.random((8, 6)) * 255).astype(np.uint8)
    if mode == "I;16":
        img = Image.fromarray(gray.astype(np.uint16) * 257)
    elif mode == "F":
        img = Image.fromarray(gray.astype(np.float32) / 255)
    else:
        img = Image.fromarray(np.dstack([gray] * 3)).convert("RGBA" if mode.endswith("A") else "RGB").convert(mode)
    out = upscaler.upscale(img)
    assert isinstance(out, Image.Image)
    assert out.size == (12, 16)
    assert out.mode == {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)


def test_torch(upscaler: fastsr.Upscaler) -> None:
    batch = torch.rand(3, 3, 8, 6, dtype=torch.float64)
    out = upscaler.upscale(batch)
    assert out.shape == (3, 3, 16, 12)
    assert out.dtype == batch.dtype
    assert torch.equal(upscaler.upscale(batch[1]), out[1])
    assert upscaler.upscale(torch.rand(1, 4, 4)).shape == (1, 8, 8)


def test_strides_byte_order_and_read_only_do_not_matter(upscaler: fastsr.Upscaler) -> None:
    img = (RNG.random((10, 12, 3)) * 255).astype(np.uint8)
    expected = upscaler.upscale(img)
    wide = np.zeros((20, 24, 3), np.uint8)
    wide[::2, ::2] = img
    assert np.array_equal(upscaler.upscale(wide[::2, ::2]), expected)
    assert np.array_equal(upscaler.upscale(img[::-1])[...], upscaler.upscale(img[::-1].copy()))
    frozen = img.copy()
    frozen.flags.writeable = False
    assert np.array_equal(upscaler.upscale(frozen), expected)
    f = RNG.random((6, 6), dtype=np.float32)
    assert np.array_equal(upscaler.upscale(f.astype(">f4")), upscaler.upscale(f))


BAD: dict[str, Any] = {
    "nan": np.full((4, 4), np.nan, np.float32),
    "inf": np.full((4, 4, 3), np.inf, np.float32),
    "range": np.full((4, 4), 255, np.float32),
    "negative": np.full((4, 4), -1, np.float32),
    "float64": np.zeros((4, 4)),
    "bool": np.zeros((4, 4), bool),
    "object": np.zeros((4, 4), object),
    "complex": np.zeros((4, 4), complex),
    "int64": np.zeros((4, 4), np.int64),
    "empty": np.zeros((0, 4), np.uint8),
    "empty width": np.zeros((4, 0, 3), np.uint8),
    "1-d": np.zeros(4, np.uint8),
    "4-d": np.zeros((1, 4, 4, 3), np.uint8),
    "5 channels": np.zeros((4, 4, 5), np.uint8),
    "0 channels": np.zeros((4, 4, 0), np.uint8),
    "list": [[1, 2], [3, 4]],
    "none": None,
    "string": "image.png",
    "torch int": torch.zeros(3, 4, 4, dtype=torch.int32),
    "torch 2-d": torch.zeros(4, 4),
    "torch nan": torch.full((3, 4, 4), float("nan")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images(upscaler: fastsr.Upscaler, name: str) -> None:
    with pytest.raises(InputError) as e:
        upscaler.upscale(BAD[name])
    assert str(e.value)
    assert "\n" not in str(e.value)


def test_nan_is_named_by_its_index(upscaler: fastsr.Upscaler) -> None:
    img = np.zeros((4, 5), np.float32)
    img[2, 3] = np.nan
    with pytest.raises(InputError, match=r"\(2, 3"):
        upscaler.upscale(img)


def test_self_ensemble_is_the_mean_over_the_dihedral_group(small_model: Maker) -> None:
    path = small_model()
    plain, ensemble = fastsr.load(path), fastsr.load(path, self_ensemble=True)
    x = RNG.random((1, 9, 6), dtype=np.float32)
    total = np.zeros((1, 18, 12))
    for flip in (False, True):
        for turn in range(4):
            v = np.rot90(x[:, :, ::-1] if flip else x, turn, (1, 2))
            out = np.rot90(plain.run(np.ascontiguousarray(v)), -turn, (1, 2))
            total += out[:, :, ::-1] if flip else out
    assert_matches(ensemble.run(x), total / 8)


def test_one_upscaler_serves_many_threads(upscaler: fastsr.Upscaler) -> None:
    images = [(RNG.random((5 + i, 30 - i, 3)) * 255).astype(np.uint8) for i in range(20)]
    expected = [upscaler.upscale(i) for i in images]
    with ThreadPoolExecutor(8) as pool:
        for out, want in zip(pool.map(upscaler.upscale, images), expected, strict=True):
            assert np.array_equal(out, want)


def test_info_and_explain(upscaler: fastsr.Upscaler) -> None:
    info = upscaler.info()
    assert info["name"] == "small"
    assert info["parameters"] == 2 * 72
    assert info["radius"] >= 2
    assert upscaler.explain(10, 10)[-1]["shape"] == (1, 20, 20)
    assert "small" in repr(upscaler)


def test_options(small_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_model()
    x = RNG.random((1, 40, 40), dtype=np.float32)
    expected = fastsr.load(path).run(x)
    assert fastsr.load(path, tile=7, threads=1).run(x).tobytes() == expected.tobytes()
    for options, error in [
        ({"device": "cuda"}, DeviceError),
        ({"device": "tpu"}, DeviceError),
        ({"executor": "onnx"}, DeviceError),
        ({"precision": "fp8"}, DeviceError),
        ({"threads": 0}, InputError),
        ({"threads": 2.5}, InputError),
        ({"tile": 0}, InputError),
        ({"tile": "big"}, InputError),
        ({"memory_limit": -1}, InputError),
        ({"scale": 3}, ModelError),
    ]:
        with pytest.raises(error):
            fastsr.load(path, **options)
    with pytest.raises(LimitError, match="memory_limit"):
        fastsr.load(path, memory_limit=1000).run(x)
    monkeypatch.setenv("FASTSR_CPU_ISA", "sse9")
    with pytest.raises(DeviceError, match="baseline"):
        fastsr.load(path)
    monkeypatch.setenv("FASTSR_CPU_ISA", "baseline")
    assert_matches(fastsr.load(path).run(x), expected.astype(np.float64))
    monkeypatch.delenv("FASTSR_CPU_ISA")
    monkeypatch.setenv("FASTSR_THREADS", "many")
    with pytest.raises(InputError, match="FASTSR_THREADS"):
        fastsr.load(path)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ModelError, match="no model 'annett_x3'"):
        fastsr.load("annett_x3")
    with pytest.raises(ModelError, match="no such model file"):
        fastsr.load("nope.safetensors")


def test_rgb_models_get_gray_images_too(small_model: Maker) -> None:
    upscaler = fastsr.load(small_model("rgb", domain="rgb"))
    assert upscaler.upscale(np.zeros((4, 5), np.uint8)).shape == (8, 10)
    assert upscaler.upscale(np.zeros((4, 5, 4), np.uint8)).shape == (8, 10, 4)
