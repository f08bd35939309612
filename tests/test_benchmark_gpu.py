# SPDX-License-Identifier: Apache-2.0
"""The peers on a GPU compute what we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr import executors  # noqa: E402
from fastsr.benchmark import cases, gpu  # noqa: E402
from fastsr.families.crnet import CRNetA  # noqa: E402
from fastsr.families.srcnn import SRCNN  # noqa: E402
from fastsr.gpu import tuning  # noqa: E402
from fastsr.plan import INPUT  # noqa: E402
from fastsr.testing import TOLERANCE, rng  # noqa: E402


def plans() -> dict[str, tuple[Any, dict[str, np.ndarray]]]:
    torch.manual_seed(1)
    return {"annet": cases.random_annet(2), "crnet": CRNetA(2, n0=8, m0=16, steps=2).lower()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["annet", "crnet"])
def test_peers_compute_the_plan(
    device: Any, name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's default rounds the products of fp32 convolutions to tf32; so does bench/gpu_worker.py not.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
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
        for implementation in ("torch", "torch natural", "torch best"):
            eager.choices.keep(anchored, (1, 1, 9, 11), tuning.Candidate(implementation))
            assert eager.explain(9, 11)[1]["who"] == f"{implementation} {precision} tuned"
            runs.append(lambda x, of=dict(eager.choices.found): _with(eager, of, x))
    else:
        runs.append(eager.run_tensor)
    for run in runs:
        error = np.abs(run(there)[0].cpu().numpy() - expected)
        assert error.max() <= TOLERANCE["fp32"] if precision == "fp32" else np.square(error).mean() < 1e-5


def _with(prepared: Any, found: dict[str, Any], x: Any) -> Any:
    prepared.choices.found = found
    return prepared.run_tensor(x)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_way_to_write_an_op_computes_it(device: Any, precision: str) -> None:
    """Also those whose speed nobody expects to be chosen: each has been on some GPU."""
    torch.manual_seed(2)
    made = {
        "srcnn": SRCNN(2, (9, 1, 5)).lower(),
        "btsrn": (cases.upsample_residual(3, 16).plan, cases.upsample_residual(3, 16).weights),
        "crnet": plans()["crnet"],
        "annet": plans()["annet"],
    }
    seen = set()
    for plan, weights in made.values():
        eager = gpu.eager(plan, weights, precision, str(device))
        values = {INPUT: torch.from_numpy(rng(5).random((1, plan.channels, 9, 11), dtype=np.float32)).to(device)}
        for stage in eager.stages:
            inputs = [values[name] for name in stage.inputs]
            expected = values[stage.out] = stage.plain(inputs, eager.dtype)
            for implementation in stage.implementations:
                out = implementation.launch(implementation.packed, inputs, None)
                assert (out.dtype, out.shape) == (expected.dtype, expected.shape)
                near = 2e-5 if precision == "fp32" else 1e-2
                assert float((out - expected).abs().max()) <= near * float(expected.abs().max()), (
                    stage.key,
                    implementation.name,
                )
                seen.add(implementation.name)
    wanted = {"torch", "torch natural", "torch best", "torch pad", "torch wide", "torch linear"}
    assert seen == wanted | ({"torch fused"} if device.type == "cuda" else set())
