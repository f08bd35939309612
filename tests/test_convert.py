# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints: the A+ authors' layout, made up at toy size and, where ../shared is there, the real one."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
io = pytest.importorskip("scipy.io")
sparse = pytest.importorskip("scipy.sparse")

from fastsr import _core, convert, executors, load, modelfile  # noqa: E402
from fastsr.convert import matlab  # noqa: E402
from fastsr.errors import InputError, ModelError  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared"
APLUS = SHARED / "checkpoints/aplus/Aplus_x2_1024atoms2048nn_5mil.mat"


def write_aplus(folder: Path, scale: int = 2, count: int = 8, n1: int = 5) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    m2 = 9 * scale * scale
    truth = {
        "V_pca": rng.standard_normal((4 * m2, n1)),
        "dict_lores": rng.standard_normal((n1, count)),
        "P": rng.standard_normal((count, m2, n1)) / 10,
    }
    cells = np.empty((1, count), dtype=object)
    for i in range(count):
        cells[0, i] = truth["P"][i]
    path = folder / f"Aplus_x{scale}_toy.mat"
    io.savemat(path, {"Aplus_PPs": cells})
    conf = {"V_pca": truth["V_pca"], "dict_lores": truth["dict_lores"]}
    io.savemat(folder / f"conf_Zeyde_toy_finalx{scale}.mat", {"conf": conf})
    return path, truth


def authors_way(x: np.ndarray, truth: dict[str, np.ndarray], scale: int, row: int, column: int) -> np.ndarray:
    """Their MATLAB for one patch inside the image: convolve, cut, stack by columns, project, choose, multiply."""
    m = 3 * scale
    gradient = np.array([1, *[0] * (scale - 1), -1.0])
    laplacian = np.array([1, *[0] * (scale - 1), -2, *[0] * (scale - 1), 1.0]) / 2

    def same(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return np.convolve(signal, kernel)[len(kernel) // 2 :][: len(signal)]

    patch = (slice(row, row + m), slice(column, column + m))
    maps = [np.apply_along_axis(same, axis, x, k)[patch] for k in (gradient, laplacian) for axis in (1, 0)]
    feature = truth["V_pca"].T @ np.concatenate([part.ravel(order="F") for part in maps])
    atoms = truth["dict_lores"] / np.linalg.norm(truth["dict_lores"], axis=0)
    anchor = np.abs(atoms.T @ feature).argmax()
    return (truth["P"][anchor] @ feature).reshape(m, m, order="F")


@pytest.mark.parametrize("scale", [2, 3])
def test_aplus_patches_are_turned_row_by_row(tmp_path: Path, scale: int) -> None:
    path, truth = write_aplus(tmp_path, scale)
    found = convert.read(path)
    import torch

    from fastsr.ops import anchored_regression, resize_bicubic

    lr = torch.from_numpy(np.random.default_rng(1).random((1, 1, 8, 8)))
    bicubic = resize_bicubic.reference(lr, scale=scale)
    x = bicubic.numpy()
    weights = {k: torch.from_numpy(v).double() for k, v in found.weights.items()}
    out = anchored_regression.reference(lr, bicubic, **weights, scale=scale).numpy()[0, 0]
    expected = x[0, 0, 3 * scale : 4 * scale, 3 * scale : 4 * scale].copy()
    for row in range(scale, 4 * scale, scale):
        for column in range(scale, 4 * scale, scale):
            detail = authors_way(x[0, 0], truth, scale, row, column)
            expected += detail[3 * scale - row :, 3 * scale - column :][:scale, :scale] / 9
    assert np.abs(out[3 * scale : 4 * scale, 3 * scale : 4 * scale] - expected).max() < 1e-5


def test_aplus_becomes_a_model_file(tmp_path: Path) -> None:
    path, _ = write_aplus(tmp_path)
    model = modelfile.read(convert.convert(path, tmp_path / "out.safetensors"))
    assert model.name == "aplus_x2"
    assert [step.op for step in model.plan.steps] == ["resize_bicubic", "anchored_regression"]
    out = executors.get("reference").prepare(model.plan, model.weights).run(np.zeros((1, 3, 4), np.float32))
    assert out.shape == (1, 6, 8)


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format 'onnx' is not one of"):
        convert.read("x", "onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        convert.read(tmp_path / "none.mat")
    (tmp_path / "bad.mat").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a MATLAB file"):
        convert.read(tmp_path / "bad.mat")
    io.savemat(tmp_path / "other.mat", {"a": 1})
    with pytest.raises(ModelError, match="holds no 'Aplus_PPs'"):
        convert.read(tmp_path / "other.mat")
    path, _ = write_aplus(tmp_path)
    (tmp_path / "conf_Zeyde_toy_finalx2.mat").unlink()
    with pytest.raises(ModelError, match="put the authors' dictionary beside"):
        convert.read(path)


@pytest.mark.skipif(not APLUS.exists(), reason="needs ../shared/checkpoints")
def test_the_authors_regressors_give_their_psnr() -> None:
    """Set5 x2 36.54 with the released regressors."""
    from fastsr.evaluate import evaluate_folder

    found = convert.read(APLUS)

    class Runs:
        scale = 2
        name = "aplus_x2"
        domain = "y"
        prepared = executors.get("cpu").prepare(found.plan, found.weights)

        def run(self, planes: np.ndarray) -> np.ndarray:
            return self.prepared.run(planes)

    assert evaluate_folder(Runs(), SHARED / "data/test/Set5")["psnr_y"] == pytest.approx(36.54, abs=0.01)


def srcnn_layers(channels: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = [(6, channels, 9, 9), (4, 6, 3, 3), (channels, 4, 5, 5)]
    return [(rng.standard_normal(s) / 20).astype(np.float32) for s in shapes]


def plain_srcnn(x: torch.Tensor, layers: list[np.ndarray], mode: str) -> torch.Tensor:
    for i, w in enumerate(layers):
        k = w.shape[-1] // 2
        x = torch.nn.functional.pad(x, (k, k, k, k), mode=mode)
        x = torch.nn.functional.conv2d(x, torch.from_numpy(w), torch.full((w.shape[0],), 0.1))
        x = x if i == 2 else x.relu()
    return x


def test_the_srcnn_authors_filters_are_stacked_by_columns(tmp_path: Path) -> None:
    w1, w2, w3 = srcnn_layers()
    fields = {
        "weights_conv1": np.stack([w.ravel(order="F") for w in w1[:, 0]], 1),
        "weights_conv2": np.stack([np.stack([p.ravel(order="F") for p in w]) for w in w2], 2),
        "weights_conv3": np.stack([p.ravel(order="F") for p in w3[0]]),
    }
    path = tmp_path / "9-3-5_toy_x2.mat"
    io.savemat(path, fields | {f"biases_conv{i}": np.full((n, 1), 0.1) for i, n in ((1, 6), (2, 4), (3, 1))})
    found = convert.read(path)
    assert (found.name, found.plan.scale) == ("srcnn_935_x2", 2)
    x = np.random.default_rng(0).random((1, 6, 7), dtype=np.float32)
    bicubic = torch.from_numpy(_core.resize_bicubic(x, 12, 14))[None]
    expected = plain_srcnn(bicubic, [w1, w2, w3], "replicate")[0].numpy()
    out = executors.get("cpu").prepare(found.plan, found.weights).run(x)
    assert np.abs(out - expected).max() < 1e-5
    io.savemat(path, fields | {f"biases_conv{i}": np.zeros((2, 1)) for i in (1, 2, 3)})
    with pytest.raises(ModelError, match="shapes of SRCNN"):
        convert.read(path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("outer", ["", "state_dict", "model"])
def test_torch_state_dicts_of_srcnn(tmp_path: Path, channels: int, outer: str) -> None:
    """Any names, `module.` prefixes, an outer dict; zeros at the border, as PyTorch versions have it."""
    layers = srcnn_layers(channels)
    state = {}
    for name, w in zip(("features.0", "map.0", "reconstruction"), layers, strict=True):
        state[f"module.{name}.weight"] = torch.from_numpy(w)
        state[f"module.{name}.bias"] = torch.full((w.shape[0],), 0.1)
    path = tmp_path / "net.pth"
    torch.save({outer: state, "epoch": 3} if outer else state, path)
    with pytest.raises(InputError, match="does not say its scale"):
        convert.read(path)
    found = convert.read(path, scale=2)
    assert found.plan.domain == ("y" if channels == 1 else "rgb")
    x = np.random.default_rng(0).random((channels, 6, 7), dtype=np.float32)
    expected = plain_srcnn(torch.from_numpy(_core.resize_bicubic(x, 12, 14))[None], layers, "constant")[0].numpy()
    assert np.abs(load(path, scale=2).run(x) - expected).max() < 1e-5


def test_our_own_state_dicts(tmp_path: Path) -> None:
    from fastsr.families.annet import ANNet
    from fastsr.families.srcnn import SRCNN

    x = np.random.default_rng(0).random((1, 6, 7), dtype=np.float32)
    for model in (SRCNN(3, (9, 1, 5)), ANNet(2, (5, 3), 8, 16, 6)):
        torch.save(model.state_dict(), tmp_path / f"net_x{model.scale}.pt")
        upscaler = load(tmp_path / f"net_x{model.scale}.pt")
        assert upscaler.info()["config"] == model.config
        with torch.no_grad():
            expected = model(torch.from_numpy(x)[None])[0].numpy()
        assert np.abs(upscaler.run(x) - expected).max() < 1e-4


def test_unknown_and_unsafe_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"w": torch.zeros(3, 3, 3, 3), "v": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match=r"not recognised \(it holds w \[3, 3, 3, 3\].*expected one of annet, btsrn"):
        convert.read(path, scale=2)
    torch.save({"state_dict": {"a": print}}, path)
    with pytest.raises(ModelError, match="refused"):
        convert.read(path, scale=2)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="refused"):
        convert.read(path, scale=2)
    with pytest.raises(InputError, match=r"expected \.mat, \.pth"):
        convert.read(tmp_path / "x.onnx")


def srcnn_state() -> dict[str, torch.Tensor]:
    state = {}
    for i, w in enumerate(srcnn_layers()):
        state |= {f"conv{i}.weight": torch.from_numpy(w), f"conv{i}.bias": torch.zeros(w.shape[0])}
    return state


BAD_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda w: w.clone().fill_(float("nan")),
    "float32 cannot hold": lambda w: w.double() * 1e300,
    "sparse": lambda w: w.to_sparse(),
    "no numbers": lambda w: torch.empty(w.shape, device="meta"),
    "complex": lambda w: w.cfloat(),
    "bool": lambda w: w > 0,
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "repeats its numbers": lambda w: torch.zeros(1).expand(w.shape),
    "empty": lambda w: torch.zeros(0, 1, 9, 9),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", BAD_TENSORS)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, way: str) -> None:
    state = srcnn_state()
    state["conv0.weight"] = BAD_TENSORS[way](state["conv0.weight"])
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=way):
        load(tmp_path / "a.pth", scale=2)


def test_weights_are_dense_whatever_their_strides(tmp_path: Path) -> None:
    state = srcnn_state()
    state["conv1.weight"] = state["conv1.weight"].to(memory_format=torch.channels_last).half()
    torch.save(state, tmp_path / "a.pth")
    for weight in convert.read(tmp_path / "a.pth", scale=2).weights.values():
        assert weight.dtype == np.float32
        assert weight.flags.c_contiguous


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data", "w") as f:
        for _ in range(520):
            f.write(bytes(1 << 20))
    with pytest.raises(ModelError, match="unpacks to"):
        load(tmp_path / "a.pth", scale=2)
    projections = torch.zeros(1, 9 * 1000**2, 1)  # at scale 1000 ANNet would be 10^12 numbers
    torch.save({"projections": projections, "atoms": torch.zeros(1, 1)}, tmp_path / "b.pth")
    with pytest.raises(ModelError, match="looks like annet but does not fit it: its tensors do not have the shapes"):
        load(tmp_path / "b.pth")
    with open(tmp_path / "c.pth", "wb") as f:
        f.truncate(_core.MODEL_LIMITS["file_bytes"] + 1)
    with pytest.raises(ModelError, match="the limit for a checkpoint"):
        load(tmp_path / "c.pth")
    io.savemat(tmp_path / "d_x2.mat", {"weights_conv1": np.zeros((1000, 1000))}, do_compression=True)
    monkeypatch.setattr("fastsr.convert.matlab.MAX_BYTES", 1 << 20)
    with pytest.raises(ModelError, match="unpacks to more than"):
        load(tmp_path / "d_x2.mat")
    os.mkfifo(tmp_path / "e.pth")
    with pytest.raises(ModelError, match="not a regular file"):
        load(tmp_path / "e.pth")


def srcnn_fields() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"weights_conv1": (81, 8), "weights_conv2": (8, 1, 4), "weights_conv3": (4, 25)}
    shapes |= {"biases_conv1": (8, 1), "biases_conv2": (4, 1), "biases_conv3": (1, 1)}
    return {name: random.standard_normal(shape) / 30 for name, shape in shapes.items()}


BAD_FIELDS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": lambda a: a * np.nan,
    "text": lambda a: "abc",
    "a cell array": lambda a: np.array([np.zeros(3), np.zeros(4)], dtype=object),
    "a struct": lambda a: {"a": 1},
    "a sparse matrix": lambda a: sparse.csc_matrix(a),
    "complex": lambda a: a + 1j,
    "empty": lambda a: np.zeros((81, 0)),
    "shapes of SRCNN": lambda a: a[:, :3],
}


@pytest.mark.parametrize("way", BAD_FIELDS)
def test_matlab_values_that_are_no_plain_numbers_are_refused(tmp_path: Path, way: str) -> None:
    fields = srcnn_fields()
    io.savemat(tmp_path / "a_x2.mat", fields | {"weights_conv1": BAD_FIELDS[way](fields["weights_conv1"])})
    with pytest.raises(ModelError, match=way):
        load(tmp_path / "a_x2.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path: Path, compressed: bool) -> None:
    random = np.random.default_rng(1)
    path = tmp_path / "a.mat"
    values = {d: (random.random((3, 4, 2)) * 100).astype(d) for d in ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u8")}
    cells = np.empty((2, 3), dtype=object)
    for i in np.ndindex(cells.shape):
        cells[i] = random.random((1, 2 + i[1]))
    io.savemat(path, values | {"cells": cells, "struct": {"x": 7, "text": "abc"}}, do_compression=compressed)
    found, expected = matlab.load(path), io.loadmat(path)
    for name in values:
        assert found[name].dtype == expected[name].dtype
        assert np.array_equal(found[name], expected[name])
    for i in np.ndindex(cells.shape):
        assert np.array_equal(found["cells"][i], cells[i])
    assert found["struct"]["x"] == 7
    assert found["struct"]["text"] == matlab.Other("text")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_matlab_file_is_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    """Among it the byte that says "complex" of numbers that are not, which crashes SciPy's reader and the process."""
    path = tmp_path / "a.mat"
    if not path.exists():
        write_aplus(tmp_path)[0].rename(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(124, len(content) - 1))] = data.draw(st.sampled_from([0, 1, 8, 14, 15, 128, 255]))
    damaged = tmp_path / "b.mat"
    damaged.write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), 128, len(content) // 2]))]))
    try:
        matlab.load(damaged)
    except ModelError as e:
        assert str(e).isprintable()  # noqa: PT017


@pytest.mark.skipif(not APLUS.exists(), reason="needs ../shared/checkpoints")
@pytest.mark.parametrize(
    ("name", "psnr"),
    [
        ("9-1-5_91img_x2", 36.34),
        ("9-1-5_91img_x3", 32.39),
        ("9-1-5_91img_x4", 30.09),
        ("9-1-5_ImageNet_x3", 32.52),
        ("9-5-5_ImageNet_x3", 32.75),
    ],
)
def test_the_srcnn_authors_networks_give_their_psnr(name: str, psnr: float) -> None:
    """Set5, as published (paper 001, tables 2 and 5)."""
    from fastsr.evaluate import evaluate_folder

    upscaler = load(SHARED / f"checkpoints/srcnn_official/{name}.mat")
    assert evaluate_folder(upscaler, SHARED / "data/test/Set5")["psnr_y"] == pytest.approx(psnr, abs=0.01)


def test_measured_quality_is_kept_in_the_file(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from PIL import Image

    from fastsr.cli import cli

    (tmp_path / "sets/toy").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "sets/toy/a.png")
    torch.save(srcnn_state(), tmp_path / "net_x2.pth")
    options = ["--licence", "MIT", "--measure", str(tmp_path / "sets")]
    done = CliRunner().invoke(
        cli, ["convert", str(tmp_path / "net_x2.pth"), "-o", str(tmp_path / "m.safetensors"), *options]
    )
    assert done.exit_code == 0, done.output
    model = modelfile.read(tmp_path / "m.safetensors")
    assert model.meta["licence"] == "MIT"
    assert list(model.json("psnr")) == ["toy"]
    assert f"toy {model.json('psnr')['toy']:.2f} dB" in done.output
