# SPDX-License-Identifier: Apache-2.0
"""Training at toy size: the pieces against plain formulas, the whole recipe, resuming, repeating from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from fastsr import load, modelfile  # noqa: E402
from fastsr.errors import InputError, ModelError  # noqa: E402
from fastsr.train import data, regressors, run  # noqa: E402
from fastsr.train.ksvd import ksvd, omp  # noqa: E402
from fastsr.train.loop import Schedule, averaged, train  # noqa: E402


def unit(*shape: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with edges at all angles."""
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:66, :72] / 8.0
    for i in range(4):
        level = 128 + 90 * np.sign(np.sin(x * np.cos(i) + y * np.sin(i))) + 30 * np.sin(3 * x + i * y)
        Image.fromarray(np.clip(level, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_omp_is_greedy_least_squares() -> None:
    x, atoms = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)), unit(30, 8)
    index, weight = omp(x, atoms, 3)
    for signal, chosen, w in zip(x, index, weight, strict=True):
        left, expected = signal, []
        for _ in range(3):
            expected.append(int((atoms @ left).abs().argmax()))
            d = atoms[expected].T
            best = torch.linalg.lstsq(d, signal[:, None]).solution[:, 0]
            left = signal - d @ best
        assert chosen.tolist() == expected
        assert (w - best).abs().max() < 1e-3


def test_ksvd_finds_the_dictionary_that_made_the_signals() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = unit(12, 10, seed=5)
    code = torch.zeros(3000, 12).scatter_(
        1, torch.rand(3000, 12, generator=generator).argsort(1)[:, :2], torch.randn(3000, 2, generator=generator)
    )
    found = ksvd(code @ truth, 12, sparsity=2, iterations=30, seed=3)
    assert torch.allclose(found.norm(dim=1), torch.ones(12), atol=1e-5)
    recovered = (found @ truth.T).abs().amax(0)
    assert (recovered > 0.99).float().mean() >= 0.75


def test_ksvd_repeats_from_its_seed() -> None:
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ksvd(x, 16, iterations=3, seed=7), ksvd(x, 16, iterations=3, seed=7))
    assert not torch.equal(ksvd(x, 16, iterations=3, seed=7), ksvd(x, 16, iterations=3, seed=8))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_composed_filters_are_the_explicit_features(scale: int) -> None:
    """Convolve with G, G', L, L' in MATLAB's sense, cut the patch, project: what the composed filters give at once."""
    rng = np.random.default_rng(scale)
    m, f, n1 = 3 * scale, 5 * scale, 5
    window, basis = rng.random((f, f)), rng.random((n1, 4 * m * m))
    gradient = np.array([1, *[0] * (scale - 1), -1.0])
    laplacian = np.array([1, *[0] * (scale - 1), -2, *[0] * (scale - 1), 1.0]) / 2

    def same(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:  # MATLAB's conv(..., "same")
        return np.convolve(signal, kernel)[len(kernel) // 2 :][: len(signal)]

    inner = slice(scale, scale + m)
    maps = [
        np.apply_along_axis(same, axis, window, kernel)[inner, inner].ravel()
        for kernel in (gradient, laplacian)
        for axis in (1, 0)
    ]
    filters = (torch.from_numpy(basis) @ regressors.raw_filters(scale).flatten(1)).reshape(n1, f, f).numpy()
    assert np.allclose((filters * window).sum((1, 2)), basis @ np.concatenate(maps), atol=1e-10)


def test_regressors_are_ridge_regression() -> None:
    """With all samples as neighbours, every atom has the one closed-form map (paper 000, Eq. 5)."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(400, 5, generator=generator)
    high = low @ torch.randn(5, 36, generator=generator)
    found = regressors.learn_projections(low, high, unit(3, 5), neighbours=400)
    norm = low.norm(dim=1, keepdim=True)
    lo, hi = (low / norm).double(), (high / norm).double()
    expected = torch.linalg.inv(lo.T @ lo + 0.1 * torch.eye(5)) @ lo.T @ hi
    assert (found - expected.T).abs().max() < 1e-5


def test_shrink_is_the_size_that_matlab_gives() -> None:
    y = np.random.default_rng(0).random((50, 37), dtype=np.float32)
    assert data.shrink(y, 0.98).shape == (49, 37)
    assert data.shrink(y, 1.0) is y
    hr, bicubic = data.pair(y, 3)
    assert hr.shape == bicubic.shape == (48, 36)


def toy(pictures: Path, out: Path, work: Path, **options):
    return run(
        "annet",
        scale=3, data=[pictures], seed=4, out=out, work=work, atoms=16, maps=4, limit=2000, progress=lambda s: None, **options,
    )  # fmt: skip


def test_the_recipe_repeats_and_resumes(pictures: Path, tmp_path: Path) -> None:
    whole = modelfile.read(toy(pictures, tmp_path / "a.safetensors", tmp_path / "a", steps=6))
    toy(pictures, tmp_path / "b.safetensors", tmp_path / "b", steps=6)
    again = modelfile.read(tmp_path / "b.safetensors")
    assert all(np.array_equal(whole.weights[k], again.weights[k]) for k in whole.weights)
    recipe = whole.json("recipe")
    assert recipe["seed"] == 4
    assert recipe["steps"] == 6
    # A finished run resumed has nothing left to do, and writes the same file.
    lines: list[str] = []
    kept = run(
        "annet", scale=3, data=[pictures], seed=4, out=tmp_path / "c.safetensors", work=tmp_path / "a",
        atoms=16, maps=4, limit=2000, steps=6, resume=True, progress=lines.append,
    )  # fmt: skip
    assert any("resumed at step 6" in line for line in lines)
    assert not any("K-SVD" in line for line in lines)
    assert all(np.array_equal(whole.weights[k], modelfile.read(kept).weights[k]) for k in whole.weights)


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(3, 1)

    calls = 0

    def loss(model: torch.nn.Module, generator: torch.Generator, half: bool):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return model(torch.rand(8, 3, generator=generator)).pow(2).mean()

    schedule = Schedule(steps=20, check_seconds=0)
    stop = 0
    expected, _ = train(net(), loss, lambda m: 0.0, schedule, checkpoint=tmp_path / "one.pt", seed=1)
    calls, stop = 0, 8
    with pytest.raises(KeyboardInterrupt):
        train(net(), loss, lambda m: 0.0, schedule, checkpoint=tmp_path / "two.pt", seed=1)
    stop = 0
    resumed, state = train(net(), loss, lambda m: 0.0, schedule, checkpoint=tmp_path / "two.pt", seed=1, resume=True)
    assert state.step == 20
    assert torch.equal(expected.weight, resumed.weight)


def test_training_improves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)

    def loss(net: torch.nn.Module, generator: torch.Generator, half: bool):
        x = torch.rand(64, 3, generator=generator)
        return (net(x) - x.sum(1, keepdim=True)).pow(2).mean()

    before = loss(model, torch.Generator().manual_seed(9), False).item()
    schedule = Schedule(steps=300, lr=0.02, warmup=10, ema=0.9)
    trained, _ = train(model, loss, lambda m: 0.0, schedule, checkpoint=tmp_path / "x.pt")
    assert loss(trained, torch.Generator().manual_seed(9), False).item() < before / 10


def test_the_schedule_ends_low() -> None:
    schedule = Schedule(minutes=2, lr=1e-3, warmup=10)
    assert schedule.progress(99999, 0) == 0
    assert schedule.progress(0, 120) == 1
    assert schedule.rate(1000, 0.0) == pytest.approx(1e-3)
    assert schedule.rate(0, 0.0) == pytest.approx(1e-4)
    assert schedule.rate(1000, 1.0) == pytest.approx(1e-6)


def test_what_cannot_be_trained_is_said(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe for 'vdsr'"):
        run("vdsr")
    for family in ("annet", "srcnn", "btsrn"):
        with pytest.raises(InputError, match="scale 5"):
            run(family, scale=5, data=[pictures])
        with pytest.raises(InputError, match=f"{family} needs scale"):
            run(family, data=[pictures])
    with pytest.raises(InputError, match="crnet_a takes no scale"):
        run("crnet_a", scale=3, data=[pictures])
    (tmp_path / "start.pt").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a checkpoint of a training"):
        run("btsrn", scale=3, data=[pictures], start=tmp_path / "start.pt", work=tmp_path)
    with pytest.raises(InputError, match="no training image has the 72 x 72 pixels"):
        run(
            "btsrn",
            scale=3,
            data=[pictures],
            steps=1,
            config={"width": 8, "bottleneck": 4},
            work=tmp_path,
            device="cpu",
        )
    with pytest.raises(InputError, match="no images under"):
        run("annet", scale=3, data=[tmp_path], work=tmp_path)
    with pytest.raises(InputError, match="steps or minutes"):
        Schedule()
    (tmp_path / "bad.pt").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"not a checkpoint.*drop --resume"):
        train(
            torch.nn.Linear(1, 1), lambda *a: None, lambda m: 0.0, Schedule(steps=1),
            checkpoint=tmp_path / "bad.pt", resume=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def large_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    y, x = np.mgrid[:150, :162] / 8.0
    for i in range(2):
        level = [128 + 90 * np.sign(np.sin(x * np.cos(i + c) + y * np.sin(i))) + 30 * np.sin(3 * x) for c in range(3)]
        Image.fromarray(np.clip(np.stack(level, 2), 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("scale", [3, 4])
def test_btsrn_from_images_to_a_model(scale: int, large_pictures: Path, tmp_path: Path) -> None:
    tiny = {"width": 8, "bottleneck": 4, "low": 1, "high": 1}
    common = {"scale": scale, "data": [large_pictures], "config": tiny, "work": tmp_path}
    first = run("btsrn", **common, steps=3, out=tmp_path / "one.safetensors", progress=lambda s: None)
    lines: list[str] = []
    again = run("btsrn", **common, steps=5, resume=True, out=tmp_path / "two.safetensors", progress=lines.append)
    assert lines[0].startswith("resumed at step 3")
    info = modelfile.read(again).json("recipe")
    assert (info["steps"], info["seed"], info["started_as"]) == (5, 0, "bicubic")
    assert modelfile.read(first).json("recipe")["steps"] == 3
    image = np.zeros((9, 8, 3), np.uint8)
    assert load(again).upscale(image).shape == (9 * scale, 8 * scale, 3)
    other = run(
        "btsrn", **common | {"scale": 2}, steps=1, start=tmp_path / f"btsrn_x{scale}_0.pt",
        out=tmp_path / "three.safetensors", progress=lambda s: None,
    )  # fmt: skip
    assert "tensors of btsrn_x" in modelfile.read(other).json("recipe")["started_as"]
    # What is the same at every scale is taken over: all but the enlargement.
    from fastsr.families.btsrn import BTSRN
    from fastsr.train.recipes.btsrn import take_over

    model = BTSRN(2, **tiny)
    taken = take_over(model, tmp_path / f"btsrn_x{scale}_0.pt")
    source, state = averaged(tmp_path / f"btsrn_x{scale}_0.pt"), model.state_dict()
    kept = [k for k in state if k in source and torch.equal(state[k], source[k])]
    assert {k.split(".")[0] for k in kept} >= {"enter", "low", "high", "leave"}
    assert taken == len([k for k in state if not k.startswith("up.") or state[k].shape == source[k].shape])


@pytest.mark.parametrize("kind", ["a", "b"])
def test_crnet_from_images_to_a_model_per_scale(kind: str, large_pictures: Path, tmp_path: Path) -> None:
    made = run(
        f"crnet_{kind}", data=[large_pictures], config={"n0": 4, "m0": 8, "steps": 2}, steps=2, work=tmp_path,
        out=tmp_path, name="tiny", progress=lambda s: None,
    )  # fmt: skip
    assert [path.name for path in made] == ["tiny_x2.safetensors", "tiny_x3.safetensors", "tiny_x4.safetensors"]
    for path, scale in zip(made, (2, 3, 4), strict=True):
        found = modelfile.read(path)
        assert found.json("recipe")["steps"] == 2
        assert load(path).upscale(np.zeros((9, 8, 3), np.uint8)).shape == (9 * scale, 8 * scale, 3)


def test_a_deeper_integration_starts_as_the_shallow_one(tmp_path: Path) -> None:
    from fastsr.families.annet import Integration
    from fastsr.train.recipes.annet import _grow

    torch.manual_seed(0)
    shallow, deep = Integration((5, 3), 8), Integration((9, 5, 5, 3), 8)
    deep.reset()
    assert not _grow(deep, tmp_path / "none.pt")
    for conv in deep.layers:  # without the noise
        torch.nn.init.zeros_(conv.weight)
    torch.save({"ema": {f"module.{k}": v for k, v in shallow.state_dict().items()}}, tmp_path / "shallow.pt")
    assert _grow(deep, tmp_path / "shallow.pt")
    x = torch.rand(1, 1, 24, 20)
    r = deep.radius
    assert (deep.interior(x) - shallow(x)[..., r:-r, r:-r]).abs().max() < 1e-6


def test_span_from_images_to_a_model_file(large_pictures: Path, tmp_path: Path) -> None:
    from fastsr.train.recipes.span import average

    common = {"data": [large_pictures], "config": {"width": 6, "blocks": 2}, "size": 12, "work": tmp_path}
    lines: list[str] = []
    made = run("span", **common, scale=2, steps=3, out=tmp_path / "one.safetensors", progress=lines.append)
    model = modelfile.read(made)
    assert (model.name, model.meta["arch"]) == ("span_x2", "span")
    assert model.json("recipe")["steps"] == 3
    x = torch.rand(1, 3, 8, 9)
    with torch.no_grad():
        expected = average(tmp_path / "span_x2_0.pt")(x)[0].numpy()
    assert np.abs(load(made).run(x[0].numpy()) - expected).max() < 1e-5
    # Another scale begins from it; the learning rate comes down with the clock.
    options = {"scale": 3, "start": tmp_path / "span_x2_0.pt", "out": tmp_path / "two.safetensors"}
    run("span", **common, **options, within=0.05, start_at=0.01, name="other", progress=lines.append)
    recipe = modelfile.read(tmp_path / "two.safetensors").json("recipe")
    assert "tensors of span_x2_0.pt" in recipe["started_as"]
    assert recipe["steps"] > 0
    # A start that is not there is done without.
    options |= {"start": tmp_path / "none.pt", "scale": 4}
    assert run("span", **common, **options, steps=1, progress=lines.append) == tmp_path / "two.safetensors"
    assert any("starting without" in line for line in lines)
    with pytest.raises(InputError, match="no recipe for scale 5"):
        run("span", **common, scale=5)
