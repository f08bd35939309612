# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints: the A+ authors' layout, made up at toy size and, where ../shared is there, the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
io = pytest.importorskip("scipy.io")

from fastsr import convert, executors, modelfile  # noqa: E402
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
    with pytest.raises(ModelError, match="no 'Aplus_PPs'"):
        convert.read(tmp_path / "other.mat")
    path, _ = write_aplus(tmp_path)
    (tmp_path / "conf_Zeyde_toy_finalx2.mat").unlink()
    with pytest.raises(ModelError, match="put the authors' dictionary beside"):
        convert.read(path)


@pytest.mark.skipif(not APLUS.exists(), reason="needs ../shared/checkpoints")
def test_the_authors_regressors_give_their_psnr() -> None:
    """Set5 x2 36.54 with the released regressors (DESIGN section 6)."""
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
