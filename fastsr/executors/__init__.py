# SPDX-License-Identifier: Apache-2.0
"""Executors run plans: `cpu` (the C++ core), `reference` (torch, the slow twin), `triton` and `cuda` (a GPU)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np

from fastsr.errors import DeviceError
from fastsr.plan import Plan

EXECUTORS = ("cpu", "reference", "triton", "cuda")
GPU = ("triton", "cuda")
"""those whose prepare takes a `device`"""


class Prepared(Protocol):
    """A plan with its weights, ready to run; may be called from many threads at once."""

    @property
    def radius(self) -> int:
        """Input pixels around a point that its outputs depend on."""
        ...

    @property
    def isa(self) -> str:
        """The instruction set, or the library, that does the work."""
        ...

    def run(
        self,
        x: np.ndarray,  # [C, h, w] f32 in [0, 1]
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32
        ...

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        """What each step will do for an h x w input: op, shape, radius, flops, bytes, who runs it."""
        ...


class Executor(Protocol):
    name: str

    def supports(self, plan: Plan) -> str | None:
        """None, or the reason why not."""
        ...

    def prepare(
        self,
        plan: Plan,
        weights: Mapping[str, np.ndarray],
        *,
        threads: int | None = None,
        tile: int = 0,
        memory_limit: int | None = None,
        precision: str = "fp32",
    ) -> Prepared: ...


def get(name: str) -> Executor:
    """The executor of that name. Raises DeviceError with the list of names."""
    if name not in EXECUTORS:
        raise DeviceError(f"executor {name!r} is not one of {', '.join(EXECUTORS)}")
    return cast(Executor, importlib.import_module(f"fastsr.executors.{name}").EXECUTOR)
