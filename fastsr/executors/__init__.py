# SPDX-License-Identifier: Apache-2.0
"""Executors run plans: `cpu` (the C++ core), `reference` (torch, the slow twin), on a GPU `gpu`, `triton` and `cuda`.

The last three live in fastsr.gpu, which is imported when one of them is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np

from fastsr.engine import Engine, Job
from fastsr.errors import DeviceError
from fastsr.executors import devices
from fastsr.plan import Plan

EXECUTORS = ("cpu", "reference", "gpu", "triton", "cuda")
GPU = ("gpu", "triton", "cuda")
"""those whose prepare takes a `device`; the first takes what measured faster of the others"""


class Prepared(Protocol):
    """A plan with its weights, ready to run; may be called from many threads at once."""

    @property
    def radius(self) -> int:
        """Input pixels around a point that its outputs depend on."""
        ...

    @property
    def isa(self) -> str:
        """The instruction set, the library or the GPU that does the work."""
        ...

    def run(
        self,
        x: np.ndarray,  # [C, h, w] f32 in [0, 1]
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32
        ...

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        """What each step will do for an h x w input: op, shape, radius, flops, bytes, who runs it."""
        ...

    def engine(self, job: Job) -> Engine:
        """What takes whole images to this network."""
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
        **place: str,  # device, for those of GPU
    ) -> Prepared: ...


def get(name: str) -> Executor:
    """The executor of that name. Raises DeviceError with the list of names, or with the package that it lacks."""
    if name not in EXECUTORS:
        raise DeviceError(f"executor {name!r} is not one of {', '.join(EXECUTORS)}")
    if name not in GPU:
        return cast(Executor, importlib.import_module(f"fastsr.executors.{name}").EXECUTOR)
    if reason := devices.not_installed():
        raise DeviceError(f"executor {name!r}: {reason}")
    return cast(Executor, importlib.import_module(f"fastsr.gpu.{name}").EXECUTOR)


def choose(device: str, name: str) -> tuple[Executor, dict[str, str], str]:
    """The executor for `device` ("auto", "cpu", "cuda", "cuda:1", "cuda:0,1", "cuda:all") and the asked-for one ("auto" or its name).

    Also returns what else its prepare is given, and why the CPU was taken where "auto" found no GPU. Raises DeviceError.
    """
    known = isinstance(device, str) and (device in ("auto", "cpu") or devices.DEVICE.fullmatch(device))
    if not known:
        raise DeviceError(f"device {device!r} is not one of auto, cpu, cuda, cuda:1, cuda:0,1, cuda:all")
    if name != "auto" and name not in GPU:
        if device not in ("auto", "cpu"):
            raise DeviceError(f"executor {name!r} does not run on device {device!r}: use executor='auto'")
        return get(name), {}, ""
    if name in GPU:
        # Without a GPU the interpreter, where it was asked for, stands in.
        here = "cpu" if devices.interpreted() and not devices.driver() else "cuda"
        return get(name), {"device": here if device == "auto" else device}, ""
    reason = devices.missing("cuda") if device == "auto" and devices.driver() else "no NVIDIA driver found"
    if device == "cpu" or (device == "auto" and reason):
        return get("cpu"), {}, f"on the CPU: {reason}" if device == "auto" else ""
    return get(GPU[0]), {"device": "cuda" if device == "auto" else device}, ""
