# SPDX-License-Identifier: Apache-2.0
"""load() and Upscaler: every kind of image comes back as what it was; every wrong argument is answered in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fastsr
from fastsr import DeviceError, InputError, LimitError, ModelError, Upscaler, _core, modelfile
from fastsr.plan import Plan, Step
from fastsr.testing import UGLY, rng

Write = Callable[..., Path]


@pytest.fixture
def net(small_model: Write) -> Upscaler:
    return fastsr.load(small_model())


@pytest.fixture(scope="module")
def bicubic(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    """A model that is bicubic x2, so that what an upscale should be is known."""
    path = tmp_path_factory.mktemp("bicubic") / "bicubic_x2.safetensors"
    plan = Plan("y", 2, (Step("resize_bicubic", ("lr",), "out", {}, {"scale": 2}),))
    about: dict[str, Any] = {"name": "bicubic_x2", "arch": "test", "licence": "x"}
    modelfile.write(path, plan, {}, config={}, recipe={}, psnr={}, **about)
    return fastsr.load(path)


def expected(a: np.ndarray, levels: int) -> np.ndarray:
    """Bicubic x2 of [H, W, C], by the op alone."""
    x = np.ascontiguousarray(a.transpose(2, 0, 1), np.float32) / levels
    out = np.clip(_core.resize_bicubic(x, 2 * a.shape[0], 2 * a.shape[1]), 0, 1)
    return out.transpose(1, 2, 0)


@given(
    h=st.integers(1, 20),
    w=st.integers(1, 20),
    channels=st.sampled_from([0, 1, 2, 3, 4]),
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<f4", ">f4"]),
    seed=st.integers(0, 99),
)
def test_arrays(bicubic: Upscaler, h: int, w: int, channels: int, dtype: str, seed: int) -> None:
    levels = {"u1": 255, "u2": 65535, "f4": 1}[dtype[-2:]]
    a = rng(seed).random((h, w, channels or 1)) * levels
    a = (a if levels == 1 else np.round(a)).astype(dtype)
    img = a[:, :, 0] if channels == 0 else a
    out = bicubic.upscale(img)
    assert out.dtype == img.dtype
    assert out.shape == (2 * h, 2 * w, *img.shape[2:])
    error = np.abs(out.reshape(2 * h, 2 * w, -1).astype(np.float64) / levels - expected(a, levels)).max()
    assert error <= (0.5 / levels if levels > 1 else 0) + 4e-6


@pytest.mark.parametrize("shape", UGLY)
def test_ugly_sizes(net: Upscaler, shape: tuple[int, int]) -> None:
    assert net.upscale(np.zeros((*shape, 3), np.uint8)).shape == (2 * shape[0], 2 * shape[1], 3)


def test_views_give_what_their_copies_give(net: Upscaler) -> None:
    base = rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    views = {
        "slice": base[::2, ::3, :3],
        "negative strides": base[::-1, ::-1, 2::-1],
        "transposed": base.transpose(1, 0, 2),
        "broadcast": np.broadcast_to(base[:1, :, :3], (20, 30, 3)),
        "unaligned": np.frombuffer(b"x" + base.tobytes(), np.uint8, offset=1).reshape(base.shape),
        "fortran": np.asfortranarray(base),
        "matrix": base[:, :, 0].view(np.matrix),
    }
    for name, view in views.items():
        view = view.view()
        view.flags.writeable = False
        copy = np.array(view, subok=False)
        assert np.array_equal(net.upscale(view), net.upscale(copy)), name
    unaligned = np.frombuffer(b"x" + np.ones((6, 6), np.float32).tobytes(), np.float32, offset=1).reshape(6, 6)
    assert net.upscale(unaligned).shape == (12, 12)


def test_the_input_is_not_written_and_not_shared(net: Upscaler) -> None:
    a = rng(0).random((12, 12, 4), dtype=np.float32)
    before = a.copy()
    out = net.upscale(a)
    assert np.array_equal(a, before)
    assert not np.shares_memory(a, out)


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [
        *((mode, mode) for mode in ("L", "LA", "RGB", "RGBA", "I;16", "I", "F")),
        *(("1", "L"), ("P", "RGB"), ("PA", "RGBA"), ("La", "LA"), ("RGBa", "RGBA")),
        *(("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("RGBX", "RGB")),
    ],
)
@pytest.mark.parametrize("size", [(5, 4), (1, 1), (1, 6), (6, 1)])
def test_pil_modes(net: Upscaler, mode: str, becomes: str, size: tuple[int, int]) -> None:
    out = net.upscale(Image.new(mode, size))
    assert isinstance(out, Image.Image)
    assert (out.mode, out.size) == (becomes, (2 * size[0], 2 * size[1]))


def test_pil_is_what_numpy_is(net: Upscaler) -> None:
    a = rng(3).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    assert np.array_equal(np.asarray(net.upscale(Image.fromarray(a))), net.upscale(a))
    deep = rng(3).integers(0, 65536, (9, 11), dtype=np.uint16)
    assert np.array_equal(np.asarray(net.upscale(Image.fromarray(deep))), net.upscale(deep))
    assert np.array_equal(np.asarray(net.upscale(Image.fromarray(deep.astype(np.int32)))), net.upscale(deep))


def test_a_transparent_colour_becomes_alpha(bicubic: Upscaler) -> None:
    for mode, transparent, becomes in (("L", 7, "LA"), ("RGB", (7, 7, 7), "RGBA"), ("P", 7, "RGBA")):
        img = Image.new(mode, (4, 4), transparent)
        img.info["transparency"] = transparent
        out = bicubic.upscale(img)
        assert out.mode == becomes
        assert out.getchannel("A").getextrema() == (0, 0)


def test_pil_keeps_the_colour_profile(net: Upscaler) -> None:
    img = Image.new("RGB", (4, 4))
    img.info.update(icc_profile=b"profile", dpi=(72, 72), comment="no")
    assert net.upscale(img).info == {"icc_profile": b"profile", "dpi": (72, 72)}


def test_tensors(net: Upscaler) -> None:
    torch = pytest.importorskip("torch")
    for channels in (1, 2, 3, 4):
        x = torch.rand(3, channels, 7, 6)
        out = net.upscale(x)
        assert out.shape == (3, channels, 14, 12)
        assert out.dtype == x.dtype
        for item, enlarged in zip(x, out, strict=True):
            assert torch.equal(net.upscale(item), enlarged)
        array = net.upscale(x[0].permute(1, 2, 0).numpy())
        assert np.array_equal(out[0].permute(1, 2, 0).numpy(), array)
    assert net.upscale(torch.nn.Parameter(torch.rand(1, 4, 4))).shape == (1, 8, 8)
    assert net.upscale(torch.rand(3, 4, 4).double()).dtype == torch.float64
    assert net.upscale(torch.rand(3, 4, 4).half()).dtype == torch.float16
    assert net.upscale(torch.rand(0, 3, 4, 5)).shape == (0, 3, 8, 10)
    assert net.upscale(torch.rand(5, 4, 3).permute(2, 1, 0)).shape == (3, 8, 10)


def nan_at(value: float) -> np.ndarray:
    a = np.zeros((4, 5, 3), np.float32)
    a[2, 3, 1] = a[3, 0, 0] = value
    return a


BAD: dict[str, tuple[Any, str]] = {
    "nan": (nan_at(float("nan")), r"nan at index \(2, 3, 1\)"),
    "infinity": (nan_at(float("inf")), r"inf at index \(2, 3, 1\)"),
    "too bright": (np.full((4, 4), 255, np.float32), r"\[0, 1\], this one goes from 255 to 255"),
    "negative": (np.full((4, 4), -0.5, np.float32), r"from -0.5"),
    "no rows": (np.zeros((0, 4, 3), np.uint8), "empty"),
    "no columns": (np.zeros((4, 0), np.uint8), "empty"),
    "no channels": (np.zeros((4, 4, 0), np.uint8), r"shape \(4, 4, 0\)"),
    "five channels": (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
    "one axis": (np.zeros(4, np.uint8), r"shape \(4,\)"),
    "four axes": (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
    **{
        dtype: (np.zeros((4, 4), dtype), f"dtype {dtype} is not supported: use uint8, uint16, float32 or float64")
        for dtype in ("float16", "int8", "int64", "bool", "complex64", "object")
    },
    "masked": (np.ma.zeros((4, 4), np.uint8), "masked"),
    "path": ("photo.png", "cannot upscale a str: open it with PIL first"),
    "list": ([[1, 2]], "cannot upscale a list: give a PIL image"),
    "none": (None, "NoneType"),
    "empty PIL": (Image.new("RGB", (0, 4)), "empty"),
    "bright F": (Image.new("F", (4, 4), 200.0), "from 200 to 200"),
    "deep I": (Image.new("I", (4, 4), 70000), "from 70000 to 70000"),
}


@pytest.mark.parametrize("way", BAD)
def test_a_bad_image_is_answered_in_one_line(net: Upscaler, way: str) -> None:
    img, message = BAD[way]
    with pytest.raises(InputError, match=message) as e:
        net.upscale(img)
    assert "\n" not in str(e.value)


def test_a_bad_tensor_is_answered_in_one_line(net: Upscaler) -> None:
    torch = pytest.importorskip("torch")
    bad = torch.zeros(2, 3, 4, 4)
    bad[1, 2, 3, 0] = float("nan")
    for x, message in (
        (bad, r"nan at index \(1, 2, 3, 0\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int16), "uint8, uint16 or float in .* int16"),
        (torch.zeros(3, 4, 4).to_sparse(), r"layout torch.sparse_coo are not supported: give img.to_dense\(\)"),
        (torch.zeros(3, 4, 4, device="meta"), "device meta has no values"),
        (torch.quantize_per_tensor(torch.zeros(3, 4, 4), 0.1, 0, torch.quint8), "quantised tensors .quint8."),
        (torch.zeros(4, 4), r"shape \(4, 4\)"),
        (torch.zeros(5, 4, 4), r"shape \(5, 4, 4\)"),
        (torch.zeros(3, 0, 4), "empty"),
    ):
        with pytest.raises(InputError, match=message):
            net.upscale(x)


def test_a_cut_file_opened_by_the_caller(net: Upscaler, tmp_path: Path) -> None:
    Image.fromarray(rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    with pytest.raises(InputError, match="cannot be decoded"), Image.open(tmp_path / "a.png") as img:
        net.upscale(img)


def test_an_output_that_is_too_large_is_refused_at_once(net: Upscaler) -> None:
    with pytest.raises(LimitError, match="output pixels"):
        net.upscale(np.broadcast_to(np.zeros((1, 1), np.uint8), (20000, 20000)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "tpu"}, DeviceError, "not one of auto, cpu, cuda"),
        ({"device": None}, DeviceError, "device None is not one of auto, cpu, cuda"),
        ({"device": 0}, DeviceError, "device 0 is not one of auto, cpu, cuda"),
        ({"executor": None}, DeviceError, "executor None is not one of"),
        ({"device": "cuda", "executor": "cpu"}, DeviceError, "'cpu' does not run on device 'cuda'"),
        ({"executor": "npu"}, DeviceError, "not one of cpu, reference, gpu, triton, cuda"),
        ({"precision": "fp8"}, DeviceError, "'fp8' is not available"),
        ({"threads": 0}, InputError, "threads=0"),
        ({"threads": 2.0}, InputError, "threads=2.0"),
        ({"threads": True}, InputError, "threads=True"),
        ({"threads": 10**6}, InputError, "from 1 to 1024"),
        ({"tile": 0}, InputError, "tile=0"),
        ({"tile": "big"}, InputError, "tile='big'"),
        ({"memory_limit": -1}, InputError, "memory_limit=-1"),
        ({"scale": 3}, ModelError, "upscales 2 times, not 3"),
    ],
)
def test_a_wrong_option_is_answered_in_one_line(
    small_model: Write, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fastsr.load(small_model(), **options)


def test_environment(small_model: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_model()
    monkeypatch.setenv("FASTSR_THREADS", "1")
    monkeypatch.setenv("FASTSR_LOG", "1")
    assert fastsr.load(path).info()["threads"] == 1
    assert fastsr.load(path, threads=2).info()["threads"] == 2
    fastsr.load(path).upscale(np.zeros((4, 4), np.uint8))
    assert "small: 4x4 in" in capsys.readouterr().err
    monkeypatch.setenv("FASTSR_THREADS", "many")
    with pytest.raises(InputError, match="FASTSR_THREADS='many'"):
        fastsr.load(path)
    monkeypatch.delenv("FASTSR_THREADS")
    monkeypatch.setenv("FASTSR_EXECUTOR", "npu")
    with pytest.raises(DeviceError, match="FASTSR_EXECUTOR"):
        fastsr.load(path)
    assert fastsr.load(path, executor="cpu").info()["executor"] == "cpu"
    monkeypatch.delenv("FASTSR_EXECUTOR")
    monkeypatch.setenv("FASTSR_CPU_ISA", "sse9")
    with pytest.raises(DeviceError, match="FASTSR_CPU_ISA=sse9"):
        fastsr.load(path)
    monkeypatch.setenv("FASTSR_CPU_ISA", "baseline")
    assert fastsr.load(path).info()["isa"] == "baseline"


def test_tile_threads_and_memory_change_no_byte(small_model: Write) -> None:
    path = small_model()
    img = rng(0).integers(0, 256, (61, 47, 4), dtype=np.uint8)
    want = fastsr.load(path, threads=1).upscale(img)
    for options in ({"threads": 3}, {"tile": 7}, {"tile": np.int64(16), "threads": 2}, {"memory_limit": 3_000_000}):
        assert np.array_equal(fastsr.load(path, **options).upscale(img), want), options


def test_the_reference_executor_gives_the_same_picture(small_model: Write) -> None:
    pytest.importorskip("torch")
    path = small_model()
    img = rng(0).random((23, 17, 3), dtype=np.float32)
    slow = fastsr.load(path, executor="reference")
    assert np.abs(slow.upscale(img) - fastsr.load(path).upscale(img)).max() < 1e-5
    assert slow.info()["executor"] == "reference"
    assert all(row["who"] == "reference/torch" for row in slow.explain(8, 8))


def test_an_rgb_model(small_model: Write) -> None:
    net = fastsr.load(small_model(domain="rgb"))
    a = rng(0).random((8, 9, 3), dtype=np.float32)
    out = np.clip(net.run(np.ascontiguousarray(a.transpose(2, 0, 1))), 0, 1)
    assert np.array_equal(net.upscale(a), out.transpose(1, 2, 0))
    assert net.upscale(a[:, :, :1]).shape == (16, 18, 1)
    assert net.upscale(a[:, :, :2]).shape == (16, 18, 2)


def test_self_ensemble_is_the_mean_over_flips_and_turns(small_model: Write) -> None:
    path = small_model()
    plain, both = fastsr.load(path), fastsr.load(path, self_ensemble=True)
    x = rng(0).random((1, 7, 5), dtype=np.float32)
    results = []
    for k in range(4):
        for flip in (False, True):
            t = np.rot90(x[:, ::-1] if flip else x, k, (1, 2))
            y = np.rot90(plain.run(np.ascontiguousarray(t)), -k, (1, 2))
            results.append(y[:, ::-1] if flip else y)
    assert np.abs(both.run(x) - np.mean(results, 0)).max() < 1e-6
    # Its output turns with its input, which no single run does.
    turned = both.run(np.ascontiguousarray(np.rot90(x, 1, (1, 2))))
    assert np.abs(turned - np.rot90(both.run(x), 1, (1, 2))).max() < 1e-6


def test_one_upscaler_serves_many_threads(net: Upscaler) -> None:
    images = [rng(i).integers(0, 256, (9 + i, 30 - i, 3), dtype=np.uint8) for i in range(16)]
    want = [net.upscale(img) for img in images]
    with ThreadPoolExecutor(16) as pool:
        for got, one in zip(pool.map(net.upscale, images * 3), want * 3, strict=True):
            assert np.array_equal(got, one)


def test_info_and_explain(net: Upscaler) -> None:
    info = net.info()
    assert info["parameters"] == 144
    assert info["radius"] == 3
    assert (info["name"], info["scale"], info["domain"], info["executor"]) == ("small", 2, "y", "cpu")
    assert info["recipe"] == {"seed": 5}
    rows = net.explain(10, 20)
    assert [row["op"] for row in rows] == ["resize_bicubic", "conv2d", "conv2d"]
    assert tuple(rows[-1]["shape"]) == (1, 20, 40)
    assert repr(net) == "<fastsr.Upscaler small x2 on cpu>"


def test_weights_that_explode_are_an_error_not_a_picture(small_model: Write, tmp_path: Path) -> None:
    model = modelfile.read(small_model())
    huge = {name: np.full_like(w, 3e38) for name, w in model.weights.items()}
    about: dict[str, Any] = {"name": "huge", "arch": "test", "licence": "x"}
    path = tmp_path / "huge.safetensors"
    with np.errstate(all="ignore"):
        modelfile.write(path, model.plan, huge, config={}, recipe={}, psnr={}, **about)
    with pytest.raises(ModelError, match="not finite"):
        fastsr.load(path).upscale(np.full((4, 4), 200, np.uint8))


def test_importing_is_quick_and_light() -> None:
    code = "import sys, fastsr; print(len({'torch', 'scipy', 'PIL', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
