# SPDX-License-Identifier: Apache-2.0
"""The reference executor: every op by its torch formula, in fp32 or fp64. Slow and obviously right."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.engine import Job
from fastsr.errors import DeviceError, ModelError
from fastsr.host import HostEngine, Progress, by_planes
from fastsr.ops import OPS
from fastsr.plan import INPUT, OUTPUT, Plan


class PreparedReference:
    def __init__(self, plan: Plan, weights: Mapping[str, np.ndarray], dtype: str) -> None:
        import torch

        self.plan = plan
        self.dtype = getattr(torch, dtype)
        self.weights = {name: torch.from_numpy(np.array(value)).to(self.dtype) for name, value in weights.items()}
        # The native rules check the plan once for every executor.
        self.session = _core.Session(
            plan.to_dict(), {k: np.ascontiguousarray(v, np.float32) for k, v in weights.items()}, threads=1
        )
        self.radius = self.session.radius
        self.isa = "torch"

    def upscale(self, given: _core.Pixels, out: _core.Pixels, progress: Progress = None) -> bool:
        return by_planes(self.run, given, out, self.plan.domain, self.plan.scale, self.radius)

    def run(self, x: np.ndarray, progress: Progress = None) -> np.ndarray:
        import torch

        values = {INPUT: torch.from_numpy(np.array(x))[None].to(self.dtype)}
        with torch.no_grad():
            for step in self.plan.steps:
                op = importlib.import_module(f"fastsr.ops.{step.op}")
                weights = {role: self.weights[name] for role, name in step.weights.items()}
                inputs = [values[name] for name in step.inputs]
                values[step.out] = op.reference(*inputs, **weights, **step.params)
        out: np.ndarray = values[OUTPUT][0].numpy()
        return out

    def memory(self, h: int, w: int) -> int:
        return 0  # torch's own

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        return [row | {"who": "reference/torch"} for row in self.session.explain(h, w)]

    def engine(self, job: Job) -> HostEngine:
        return HostEngine(self, job)


class ReferenceExecutor:
    name = "reference"

    def supports(self, plan: Plan) -> str | None:
        missing = sorted({step.op for step in plan.steps} - set(OPS))
        return f"no reference for {', '.join(missing)}" if missing else None

    def prepare(
        self,
        plan: Plan,
        weights: Mapping[str, np.ndarray],
        *,
        threads: int | None = None,
        tile: int = 0,
        memory_limit: int | None = None,
        precision: str = "fp32",
    ) -> PreparedReference:
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            raise DeviceError("executor 'reference' needs torch: pip install torch") from None
        if precision not in ("fp32", "fp64"):
            raise DeviceError(f"precision {precision!r} is not one of fp32, fp64 for executor 'reference'")
        if self.supports(plan):
            raise ModelError(str(self.supports(plan)))
        return PreparedReference(plan, weights, "float64" if precision == "fp64" else "float32")


EXECUTOR = ReferenceExecutor()
