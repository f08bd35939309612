# SPDX-License-Identifier: Apache-2.0
"""precision "fp8" of the GPU executors: which steps run in e4m3, that the others say so, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr import DeviceError, executors  # noqa: E402
from fastsr.evaluate import evaluate_folder  # noqa: E402
from fastsr.families.btsrn import BTSRN  # noqa: E402
from fastsr.families.crnet import CRNetA, CRNetB  # noqa: E402
from fastsr.gpu import fp8, tuning  # noqa: E402
from fastsr.gpu.gpu import GpuExecutor, PreparedGpu  # noqa: E402
from fastsr.testing import rng, script  # noqa: E402


def prepare(model: Any, device: Any, executor: str = "triton", precision: str = "fp8") -> PreparedGpu:
    made = executors.get(executor).prepare(*model.lower(), device=str(device), precision=precision)  # type: ignore[call-arg]
    assert isinstance(made, PreparedGpu)
    return made


def networks() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "btsrn": BTSRN(2, width=32, bottleneck=32, low=1, high=1),
        "crnet_a": CRNetA(2, n0=16, m0=32, steps=3),
        "crnet_b": CRNetB(2, n0=16, m0=32, steps=3),
    }


@pytest.mark.parametrize("name", ["btsrn", "crnet_a", "crnet_b"])
def test_whole_plans(device: Any, name: str) -> None:
    model = networks()[name]
    plan, weights = model.lower()
    made = prepare(model, device)
    x = rng(5).random((plan.channels, 5, 7), dtype=np.float32)
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    assert -10 * np.log10(np.square(made.run(x) - expected).mean()) >= 50
    who = {row["out"]: row["who"] for row in made.explain(5, 7)}
    wide = {"btsrn": "high.0", "crnet_a": "codes", "crnet_b": "codes"}[name]
    assert {out for out, line in who.items() if line == "triton fp8"} == {wide}
    assert {line for out, line in who.items() if out != wide} == {"triton fp16"}


def test_only_tritons_kernels_take_it(device: Any) -> None:
    model = networks()["crnet_a"]
    plan, weights = model.lower()
    lines = {row["op"]: row["who"] for row in prepare(model, device, "cuda").explain(5, 7)}
    assert lines["cista"] == "triton fp8"
    made = GpuExecutor("torch", ("torch",)).prepare(plan, weights, device=str(device), precision="fp8")
    assert {row["who"] for row in made.explain(5, 7)} == {"torch fp16"}


def test_what_e4m3_does_not_take_runs_in_fp16_and_says_so(device: Any) -> None:
    made = prepare(CRNetA(2, n0=16, m0=40, steps=3), device)
    (row,) = [row for row in made.explain(5, 7) if row["op"] == "cista"]
    assert row["who"] == "triton fp16 (triton: 40 channels: e4m3 takes multiples of 16)"


def test_a_gpu_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsr.executors.devices.missing", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A100")
    with pytest.raises(DeviceError, match=r"'fp8': A100 has compute capability 8\.0, 8\.9 is needed: use fp16"):
        executors.get("triton").prepare(*networks()["crnet_a"].lower(), precision="fp8", device="cuda")  # type: ignore[call-arg]


def test_tuning_compares_with_what_e4m3_resolves(device: Any, tmp_path: Path) -> None:
    made = prepare(networks()["crnet_a"], device)
    made.choices = tuning.Choices(device, tmp_path / "tuning.json")
    (at,) = [i for i, stage in enumerate(made.stages) if stage.steps[0].op == "cista"]
    stage = made.stages[at]
    assert stage.precision == "fp8"
    x = torch.from_numpy(rng(1).random((1, 16, 4, 6), dtype=np.float32)).half().to(device)
    (implementation,) = stage.implementations
    few = replace(
        stage, implementations=(replace(implementation, configs=lambda packed: implementation.configs(packed)[:2]),)
    )
    rows = tuning.tune(few, [x], made.choices, lambda launch: 1.0)
    assert [row["seconds"] for row in rows] == [1.0, 1.0]


def _bench() -> ModuleType:
    return script(Path(__file__).parents[2] / "bench/fp8_quality.py")


@pytest.mark.parametrize("name", ["btsrn_x3", "crnet_a_small_x3", "crnet_b_small_x3"])
def test_shipped_models_lose_no_more_than_the_rule_allows(name: str, tmp_path: Path) -> None:
    """On one drawn image; bench/fp8_quality.py measures Set5."""
    from PIL import Image

    y, x = np.mgrid[:36, :48] / 36
    rings = 0.5 + 0.4 * np.sin(90 * np.hypot(x - 0.4, y - 0.6) ** 1.5)
    planes = np.stack([rings, np.where(x + y > 1, rings, 0.2 + 0.5 * x), 0.3 + 0.5 * (np.sin(14 * x) > y)], -1)
    Image.fromarray((planes * 255).astype(np.uint8)).save(tmp_path / "drawn.png")
    bench = _bench()
    full, small = (bench.Simulated(name, precision) for precision in ("fp32", "fp8"))
    assert small.packed
    found = [evaluate_folder(run, tmp_path)["psnr_y"] for run in (full, small)]
    assert found[0] - found[1] <= bench.RULE
    patch = rng(2).random((full.plan.channels, 9, 8), dtype=np.float32)
    assert 0 < np.abs(full.run(patch) - small.run(patch)).max() < 0.05


def test_the_sample_is_the_same_everywhere() -> None:
    image = fp8.sample(3)
    assert image.shape == (3, fp8.SIDE, fp8.SIDE)
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0, 1)
    assert np.array_equal(image[:1], fp8.sample(1))
