# SPDX-License-Identifier: Apache-2.0
"""The peers on a GPU compute what we do, and the table of bench/bench_gpu.py holds what was measured and nothing else."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr import executors  # noqa: E402
from fastsr.benchmark import cases, gpu  # noqa: E402
from fastsr.executors import tuning  # noqa: E402
from fastsr.families.crnet import CRNetA  # noqa: E402
from fastsr.testing import TOLERANCE, rng, script  # noqa: E402


def bench_gpu() -> types.ModuleType:
    return script(Path(__file__).parents[1] / "bench/bench_gpu.py")


def plans() -> dict[str, tuple[Any, dict[str, np.ndarray]]]:
    torch.manual_seed(1)
    return {"annet": cases.random_annet(2), "crnet": CRNetA(2, n0=8, m0=16, steps=2).lower()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["annet", "crnet"])
def test_peers_compute_the_plan(device: Any, name: str, precision: str, tmp_path: Path) -> None:
    plan, weights = plans()[name]
    x = rng(3).random((1, plan.channels, 9, 11), dtype=np.float32)
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x[0])
    there = torch.from_numpy(x).to(device)
    eager = gpu.eager(plan, weights, precision, str(device))
    runs = [gpu.compiled(plan, weights, precision, str(device), best, gpu._plain) for best in (False, True)]
    (anchored,) = [s for s in eager.stages if s.steps[0].op == gpu.ANCHORED] or [None]
    if anchored:
        eager.choices = tuning.Choices(device, tmp_path / "tuning.json")
        eager.measures = False
        for way in ("torch", "torch natural", "torch best"):
            eager.choices.keep(anchored, (1, 1, 9, 11), tuning.Candidate(way))
            assert eager.explain(9, 11)[1]["who"] == f"{way} {precision} tuned"
            runs.append(lambda x, of=dict(eager.choices.found): _with(eager, of, x))
    else:
        runs.append(eager.run_tensor)
    for run in runs:
        error = np.abs(run(there)[0].cpu().numpy() - expected)
        assert error.max() <= TOLERANCE["fp32"] if precision == "fp32" else np.square(error).mean() < 1e-5


def _with(prepared: Any, found: dict[str, Any], x: Any) -> Any:
    prepared.choices.found = found
    return prepared.run_tensor(x)


def test_the_table_says_what_was_not_measured() -> None:
    module = bench_gpu()
    common = {"case": "cista", "precision": "fp16"}
    rows = [
        common | {"engine": "triton", "ms_median": 2.0, "tflops": 300.0, "tbps": 1.0},
        common | {"engine": "cuda", "skipped": "KernelError"},
        common | {"engine": "torch", "ms_median": 3.0, "tflops": 200.0, "tbps": 0.7},
        common | {"case": "other", "engine": "torch", "ms_median": 3.0, "tflops": 200.0, "tbps": 0.7},
    ]
    lines = module.table(rows, {"fp16": {"tflops": 600.0, "tbps": 4.0}}).splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    first, second = (
        dict(zip(head, (cell.strip() for cell in line.strip("|").split("|")), strict=True)) for line in lines[2:]
    )
    assert first["triton ms"] == "2.000"
    assert first["cuda ms"] == "not measured"
    assert first["gpu ms"] == first["torch.compile ms"] == "-"
    assert first["best peer / fastsr"] == "1.50"
    assert (first["TFLOP/s"], first["TB/s"], first["of roofline"]) == ("300.0", "1.00", "50 %")
    assert second["best peer / fastsr"] == second["of roofline"] == "not measured"
    assert [case.name for case in module.wanted(["pconv"])] == ["pconv_block 128-64, twice"]


def test_a_report_goes_on_only_with_the_same_kernels(tmp_path: Path) -> None:
    module, file = bench_gpu(), tmp_path / "gpu.json"
    about = {"machine": "h200", "torch": "2.11", "kernels": "abc"}
    assert module.begun(file, about) == {**about, "probes": {}, "rows": []}
    file.write_text('{"machine": "h200", "torch": "2.11", "kernels": "abc", "probes": {}, "rows": [{"case": "x"}]}')
    assert module.begun(file, about)["rows"] == [{"case": "x"}]
    assert module.begun(file, {**about, "kernels": "def"})["rows"] == []
    file.write_text("{")
    assert module.begun(file, about)["rows"] == []
