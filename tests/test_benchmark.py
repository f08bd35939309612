# SPDX-License-Identifier: Apache-2.0
"""Measuring: every engine computes the same, wrong engines are named, reports and tables hold what they promise."""

from __future__ import annotations

import importlib.util
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsr
from fastsr import benchmark
from fastsr.benchmark import cases, engines, photo
from fastsr.errors import DeviceError, FastsrError, InputError
from fastsr.plan import Plan, Step
from fastsr.testing import conv_weights
from fastsr.testing import script as load_script

ROOT = Path(__file__).parents[1]
EAGER = [name for name in benchmark.ENGINES if "compile" not in name and name not in engines.FOREIGN]


def script(name: str) -> types.ModuleType:
    """A file of bench/ as a module."""
    return load_script(ROOT / "bench" / f"{name}.py")


def test_photo_is_seeded_and_in_range() -> None:
    x = photo(37, 53, 3, seed=4)
    assert x.shape == (3, 37, 53)
    assert x.dtype == np.float32
    assert 0 <= x.min() < 0.2
    assert 0.8 < x.max() <= 1
    assert np.array_equal(x, photo(37, 53, 3, seed=4))
    assert not np.array_equal(x, photo(37, 53, 3, seed=5))
    assert photo(1, 1).shape == (1, 1, 1)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (17, 13), (40, 31)])
@pytest.mark.parametrize("engine", EAGER[1:])
def test_torch_peers_compute_annet(engine: str, size: tuple[int, int], scale: int) -> None:
    plan, weights = cases.random_annet(scale)
    x = photo(*size)
    expected = engines.prepare("fastsr", plan, weights)(x)
    benchmark.compare(engines.prepare(engine, plan, weights)(x), expected, engine)


@pytest.mark.parametrize("border", ["zero", "replicate", "symmetric"])
@pytest.mark.parametrize("shapes", [((6, 3, 5), (3, 6, 3)), ((80, 3, 9), (80, 80, 3), (3, 80, 1))])
def test_torch_peers_compute_convolution_chains(shapes: tuple[tuple[int, int, int], ...], border: str) -> None:
    random = np.random.default_rng(3)
    steps, weights, x = [], {}, "lr"
    for i, (co, ci, k) in enumerate(shapes):
        last = i + 1 == len(shapes)
        weights[f"w{i}"] = (random.standard_normal((co, ci, k, k)) / np.sqrt(ci * k * k)).astype(np.float32)
        weights[f"b{i}"] = random.standard_normal(co).astype(np.float32)
        params = {"border": border, "activation": "none" if last else "leaky_relu", "slope": 0.2}
        out = "out" if last else f"v{i}"
        steps.append(Step("conv2d", (x, "lr") if last else (x,), out, {"w": f"w{i}", "b": f"b{i}"}, params))
        x = out
    plan = Plan("rgb", 1, tuple(steps))
    image = photo(53, 700, 3)  # several bands
    expected = engines.prepare("fastsr", plan, weights)(image)
    for engine in EAGER[1:]:
        out = engines.prepare(engine, plan, weights)(image)
        assert np.abs(out - expected).max() < 1e-4, engine


def test_an_inner_value_with_two_readers_ends_a_chain() -> None:
    w = {"w": np.full((1, 1, 3, 3), 0.1, np.float32)}
    roles, params = {"w": "w"}, {"border": "symmetric"}
    steps = (
        Step("conv2d", ("lr",), "a", roles, params),
        Step("conv2d", ("a",), "b", roles, params),
        Step("conv2d", ("b", "a"), "out", roles, params),
    )
    plan, x = Plan("y", 1, steps), photo(9, 11)
    expected = engines.prepare("fastsr", plan, w)(x)
    for engine in EAGER[1:]:
        assert np.abs(engines.prepare(engine, plan, w)(x) - expected).max() < 1e-5


def test_compiled_peers_compute_the_same() -> None:
    plan, weights = cases.random_annet(3)
    x = photo(20, 24)
    expected = engines.prepare("fastsr", plan, weights)(x)
    for name in ("torch-compile", "torch-best-compile"):
        try:
            out = engines.prepare(name, plan, weights)(x)
        except Exception as e:  # no C++ compiler for inductor
            pytest.skip(f"torch.compile does not work here: {str(e).splitlines()[0]}")
        benchmark.compare(out, expected, name)


def test_run_reports_what_the_issue_asks_for(small_model: Callable[..., Path], tmp_path: Path) -> None:
    path = small_model()
    plot = tmp_path / "plot.png"
    report = benchmark.run(path, size=(24, 16), threads=1, engines=EAGER, repeats=3, seconds=0, plot=plot)
    assert report["model"] == "small"
    assert report["size"] == "24x16"
    assert report["threads"] == 1
    assert report["precision"] == "fp32"
    assert [row["engine"] for row in report["results"]] == EAGER
    for row in report["results"]:
        assert 0 < row["ms_min"] <= row["ms_median"]
        assert row["runs"] == 3
        assert row["mpix_per_s"] == pytest.approx(24 * 16 * 4 / 1e3 / row["ms_median"])
    medians = {row["engine"]: row["ms_median"] for row in report["results"]}
    ours = medians.pop("fastsr")
    assert report["best_peer"] == min(medians, key=lambda name: medians[name])
    assert report["ratio"] == pytest.approx(min(medians.values()) / ours)
    assert report["peak_gflops"] > 0
    assert plot.stat().st_size > 0
    json.dumps(report)


def test_without_peers_there_is_no_ratio(small_model: Callable[..., Path]) -> None:
    report = benchmark.run(small_model(), size=(8, 8), engines=["fastsr"], repeats=1, seconds=0)
    assert report["best_peer"] is None
    assert report["ratio"] is None


def test_wrong_arguments_are_named(small_model: Callable[..., Path]) -> None:
    path = small_model()
    with pytest.raises(DeviceError, match=r"engine 'tensorflow' is not one of fastsr, torch"):
        benchmark.run(path, engines=["tensorflow"])
    with pytest.raises(DeviceError, match="precision 'fp8'"):
        benchmark.run(path, precision="fp8")
    if "onnxruntime" in engines.available():
        with pytest.raises(DeviceError, match="'onnxruntime' can run in fp32"):
            benchmark.run(path, precision="bf16", engines=["onnxruntime"])
    with pytest.raises(InputError, match="must be positive"):
        benchmark.run(path, size=(0, 5))
    with pytest.raises(FastsrError):
        benchmark.run("no-such-model")


@pytest.mark.parametrize("border", ["zero", "replicate", "symmetric"])
@pytest.mark.parametrize("engine", engines.FOREIGN)
def test_other_runtimes_compute_convolution_chains(engine: str, border: str) -> None:
    if engine not in engines.available():
        pytest.skip(f"{engine} is not installed")
    weights = conv_weights([(12, 3, 5), (12, 12, 3), (3, 12, 1)], 0)
    steps = (
        Step("resize_bicubic", ("lr",), "b", {}, {"scale": 2}),
        Step("conv2d", ("b",), "m", {"w": "w0", "b": "b0"}, {"border": border, "activation": "relu"}),
        Step("conv2d", ("m", "m"), "n", {"w": "w1"}, {"border": border, "activation": "leaky_relu", "slope": 0.1}),
        Step("conv2d", ("n", "b"), "out", {"w": "w2", "b": "b2"}, {"border": border}),
    )
    plan, x = Plan("rgb", 2, steps), photo(9, 14, 3)
    if engine == "ncnn" and border == "symmetric":
        with pytest.raises(DeviceError, match="no symmetric border"):
            engines.prepare(engine, plan, weights, 1)(x)
        return
    benchmark.compare(engines.prepare(engine, plan, weights, 2)(x), engines.prepare("fastsr", plan, weights)(x), engine)
    with pytest.raises(DeviceError, match="has no anchored_regression"):
        engines.prepare(engine, *cases.random_annet(2), 1)


@pytest.mark.parametrize("engine", [*EAGER[1:], *engines.FOREIGN])
@pytest.mark.parametrize("family", ["btsrn", "btsrn leaky", "crnet_a", "crnet_b"])
def test_every_engine_computes_every_family(engine: str, family: str) -> None:
    torch = pytest.importorskip("torch")
    from fastsr.families.btsrn import BTSRN
    from fastsr.families.crnet import CRNetA, CRNetB

    if engine not in engines.available():
        pytest.skip(f"{engine} is not installed")
    torch.manual_seed(0)
    sizes = {"n0": 8, "m0": 16, "steps": 3}
    model = {
        "btsrn": lambda: BTSRN(3, width=16, bottleneck=8, low=2, high=1),
        "btsrn leaky": lambda: BTSRN(4, width=16, bottleneck=8, low=1, high=1, slope=0.2),
        "crnet_a": lambda: CRNetA(2, **sizes),
        "crnet_b": lambda: CRNetB(3, **sizes),
    }[family]()
    plan, weights = model.lower()
    x = photo(20, 30, plan.channels)
    given = x.copy()
    expected = engines.prepare("fastsr", plan, weights)(x)
    out = engines.prepare(engine, plan, weights, 2)(x)
    most = 3e-5 if engine == "mnn" else 1e-5  # MNN's Winograd blocks round more than direct sums do
    assert np.abs(out - expected).max() < most
    assert np.array_equal(x, given)


@pytest.mark.parametrize("case", cases.ops(), ids=lambda case: case.name)
def test_every_case_is_computed_by_a_peer(case: cases.Case) -> None:
    x = photo(*case.size(13, 9)[::-1], case.plan.channels)
    expected = engines.prepare("fastsr", case.plan, case.weights)(x)
    benchmark.compare(engines.prepare("torch", case.plan, case.weights)(x), expected, "torch")


def test_bf16_is_compared_by_its_distance() -> None:
    x = np.zeros((1, 4, 4), np.float32)
    benchmark.compare(x + np.float32(0.005), x, "torch", "bf16")  # 46 dB
    with pytest.raises(FastsrError, match=r"is 40\.0 dB from"):
        benchmark.compare(x + np.float32(0.01), x, "torch", "bf16")


def test_without_torch(small_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = {package for name in engines.ENGINES for package in engines._needs(name)}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else find(name, *a))
    path = small_model()
    report = benchmark.run(path, size=(8, 8), repeats=1, seconds=0)
    assert [row["engine"] for row in report["results"]] == ["fastsr"]
    with pytest.raises(DeviceError, match=r"engine 'torch' is not installed: pip install torch"):
        benchmark.run(path, engines=["torch"])


def test_a_wrong_engine_is_not_timed(small_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    right = engines.prepare

    def wrong(name: str, *args: Any) -> engines.Run:
        run = right("fastsr", *args)
        return run if name == "fastsr" else lambda x: run(x) + np.float32(0.01)

    monkeypatch.setattr(engines, "prepare", wrong)
    with pytest.raises(FastsrError, match=r"engine 'torch' agrees with fastsr on 0\.00 %"):
        benchmark.run(small_model(), size=(8, 8), engines=["fastsr", "torch"], repeats=1)


def test_the_tables(tmp_path: Path) -> None:
    report = script("report")
    row = {"what": "annet_x3", "size": "640x360", "dtype": "float32", "threads": 2, "gflop": 10.0, "runs": 3}
    probes = {"ms_min": 1.0, "peak_gflops": [200.0, 100.0]}
    rows = [
        {**row, **probes, "who": "fastsr", "ms_median": 100.0},
        {**row, **probes, "who": "torch", "ms_median": 700.0},
    ]
    versions = {"cpu": "a CPU", "isa": "avx512", "torch": "2", "fastsr": "0", "date": "2026-01-01"}
    results = tmp_path / "machine.json"
    results.write_text(json.dumps({"machine": versions, "rows": rows}))
    text = report.speed(results)
    assert "| annet_x3* | 640×360 | 100.0 | 700.0 | **7.0×** | 50 % |" in text
    assert "a CPU, avx512, 2 threads" in text
    filled = report.fill("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb", "bench", "new")
    assert filled == "a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb"
    for info in fastsr.models():
        assert f"`{info.name}`" in report.quality() or not info.psnr


def test_peak_memory_of_a_frame() -> None:
    if "annet_x3" not in {info.name for info in fastsr.models()}:
        pytest.skip("annet_x3 is not among the shipped weights")
    found = script("peak_memory").measure("annet_x3", 640, 360)
    assert found["above_interpreter_mb"] <= 300, found
