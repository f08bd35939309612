# SPDX-License-Identifier: Apache-2.0
"""The CPU executor: the whole plan inside the C++ core, one arena, no Python between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.engine import Job
from fastsr.errors import DeviceError
from fastsr.host import HostEngine, Progress
from fastsr.plan import Plan

PRECISIONS = ("fp32", "bf16")
"""bf16: products of bfloat16 summed in fp32 in the wide convolutions, the rest as in fp32"""


class PreparedCpu:
    def __init__(self, session: _core.Session) -> None:
        self.session = session
        self.radius = session.radius
        self.isa = session.isa

    def run(self, x: np.ndarray, progress: Progress = None) -> np.ndarray:
        return self.session.run(np.ascontiguousarray(x, dtype=np.float32), progress=progress)

    def upscale(self, given: _core.Pixels, out: _core.Pixels, progress: Progress = None) -> bool:
        return self.session.upscale(given, out, progress)

    def memory(self, h: int, w: int) -> int:
        return self.session.memory(h, w)

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        return self.session.explain(h, w)

    def engine(self, job: Job) -> HostEngine:
        return HostEngine(self, job)


class CpuExecutor:
    name = "cpu"

    def supports(self, plan: Plan) -> str | None:
        missing = sorted({step.op for step in plan.steps} - set(_core.ops()))
        return f"no CPU kernel for {', '.join(missing)}" if missing else None

    def prepare(
        self,
        plan: Plan,
        weights: Mapping[str, np.ndarray],
        *,
        threads: int | None = None,
        tile: int = 0,
        memory_limit: int | None = None,
        precision: str = "fp32",
    ) -> PreparedCpu:
        if precision not in PRECISIONS:
            raise DeviceError(f"precision {precision!r} is not available on the CPU: use {' or '.join(PRECISIONS)}")
        arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
        session = _core.Session(
            plan.to_dict(),
            arrays,
            threads=threads or 0,
            tile=tile,
            memory_limit=memory_limit or 0,
            bf16=precision == "bf16",
        )
        return PreparedCpu(session)


EXECUTOR = CpuExecutor()
