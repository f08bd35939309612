# SPDX-License-Identifier: Apache-2.0
"""The engines that `fastsr bench` compares. Each turns a plan and its weights into a function from lr to out."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastsr import _core, executors
from fastsr.benchmark import foreign
from fastsr.errors import DeviceError
from fastsr.ops import OPS
from fastsr.plan import INPUT, OUTPUT, Plan

Run = Callable[[np.ndarray], np.ndarray]  # [C, h, w] f32 -> [C, h * scale, w * scale] f32

ENGINES = {
    "fastsr": "fastsr's cpu executor",
    "torch": "torch as one would write it (natural.py), eager",
    "torch-compile": "the same, its stages through torch.compile",
    "torch-best": "the fastest torch we found (best.py), eager",
    "torch-best-compile": "the same, its stages through torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, precision pinned to f32",
    "ncnn": "ncnn, its half floats switched off",
    "mnn": "MNN, at high precision",
}
"""name -> what it is, in the order of the tables"""
FOREIGN = ("onnxruntime", "openvino", "ncnn", "mnn")
"""engines of foreign.py, which need the package of their name (all but ncnn also onnx)"""
HALF = ("fastsr", "torch", "torch-compile", "torch-best", "torch-best-compile", "openvino", "ncnn")
"""engines that can run in bf16: torch by autocast, ncnn by storing bf16"""


def _needs(name: str) -> tuple[str, ...]:
    """The packages behind an engine."""
    if name == "fastsr":
        return ()
    if name == "mnn":
        return ("MNN", "onnx")
    return ("torch",) if name not in FOREIGN else (name,) if name == "ncnn" else (name, "onnx")


def available() -> list[str]:
    """The engines that can run here."""
    return [name for name in ENGINES if all(importlib.util.find_spec(package) for package in _needs(name))]


def check(name: str, precision: str) -> None:
    """Raise DeviceError when the engine is unknown, cannot run here, or not at that precision."""
    if name not in ENGINES:
        raise DeviceError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    if name not in available():
        raise DeviceError(f"engine '{name}' is not installed: pip install {' '.join(_needs(name))}")
    known = ("fp32", "bf16") if name in HALF else ("fp32",)
    if precision not in known:
        raise DeviceError(f"precision {precision!r} is not available: engine '{name}' can run in {', '.join(known)}")


def prepare(
    name: str,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    threads: int | None = None,
    precision: str = "fp32",
) -> Run:
    """The engine's function for a plan; threads of torch engines are set by the caller (`torch_threads`).

    >>> prepare("fastsr", model.plan, model.weights, threads=2)(x).shape
    """
    if name == "fastsr":
        return executors.get("cpu").prepare(plan, weights, threads=threads, precision=precision).run
    if name in FOREIGN:
        return foreign.prepare(name, plan, weights, threads or _core.default_threads(), precision)
    missing = sorted({step.op for step in plan.steps} - set(OPS))
    if missing:
        raise DeviceError(f"engine '{name}' has no torch peer of {', '.join(missing)}")
    return _prepare_torch(plan, weights, best="best" in name, compiled="compile" in name, half=precision == "bf16")


def _prepare_torch(plan: Plan, weights: Mapping[str, np.ndarray], best: bool, compiled: bool, half: bool) -> Run:
    import torch

    from fastsr.benchmark import best as best_torch
    from fastsr.benchmark import natural

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False) if compiled else function

    tensors = {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in weights.items()}
    if best:
        stages = best_torch.stages(plan.steps, tensors, wrap, compiled)
    else:
        stages = natural.stages(plan.steps, tensors, wrap)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            values = {INPUT: torch.from_numpy(np.ascontiguousarray(x))[None]}
            for stage in stages:
                stage(values)
            out: np.ndarray = values[OUTPUT][0].float().numpy()
        return out

    return run


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run torch with that many threads and in full fp32, quietly; then as before."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch
    import torch._dynamo

    # Every case is a recompilation of the same function: at torch's limit of 8 it would run eagerly.
    torch._dynamo.config.recompile_limit = 1000
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)
        logger.setLevel(level)


@functools.cache
def version(name: str) -> str:
    """The version of the library behind an engine."""
    import importlib.metadata

    return importlib.metadata.version(name if name == "fastsr" or name in FOREIGN else "torch")
