# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks share: seeded inputs, the one table of tolerances, and the run of a plan everywhere.

No test passes a tolerance of its own: `assert_matches` holds an fp32 result to 1e-5 absolute on outputs
of order 1, scaled by the size of the output where it is larger; `assert_as_near` holds a GPU kernel's
to the error of plain torch at the same precision.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastsr import _core, executors
from fastsr.plan import Param, Plan, Step
from fastsr.tolerance import FACTOR, FLOOR

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = {"fp32": 1e-5}
"""precision -> max abs error against float64, outputs of order 1"""

UGLY = ((1, 1), (1, 7), (13, 1), (2, 2), (17, 31), (33, 47))
"""h, w that break assumptions: single pixels, primes, one past a vector"""

SETTINGS: tuple[dict[str, Any], ...] = (
    {"threads": 1},
    {"threads": 2, "shuffle": 1},
    {"threads": 3, "tile": 5, "shuffle": 2},
    {"threads": 1, "tile": 16},
)
"""threads, tile and task order that may not change a bit"""


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def step(op: str, inputs: tuple[str, ...], out: str, weights: dict[str, str] | None = None, **params: Param) -> Step:
    return Step(op, inputs, out, weights or {}, params)


def conv_weights(shapes: list[tuple[int, int, int]], seed: int) -> dict[str, np.ndarray]:
    """w0, b0, w1, ... for (Co, Ci, k), scaled so that values stay of order 1."""
    random = rng(seed)
    weights = {}
    for i, (co, ci, k) in enumerate(shapes):
        weights[f"w{i}"] = (random.standard_normal((co, ci, k, k)) / np.sqrt(2 * ci * k * k)).astype(np.float32)
        weights[f"b{i}"] = (0.1 * random.standard_normal(co)).astype(np.float32)
    return weights


def anchored_weights(scale: int, f: int, features: int, atoms: int, seed: int) -> dict[str, np.ndarray]:
    """filters, atoms, projections with unit atoms and details of order 0.1."""
    random = rng(seed)
    d = random.standard_normal((atoms, features))
    return {
        "filters": (random.standard_normal((features, f, f)) / f).astype(np.float32),
        "atoms": (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32),
        "projections": (random.standard_normal((atoms, 9 * scale * scale, features)) / (4 * features)).astype(
            np.float32
        ),
    }


def assert_matches(out: np.ndarray, expected: np.ndarray, precision: str = "fp32") -> None:
    """`out` equals the float64 `expected` within the table; NaN (poison that was read or not overwritten) never does."""
    assert out.shape == expected.shape, (out.shape, expected.shape)
    assert np.isfinite(out).all(), (
        "the output holds NaN: scratch was read before it was written, or not all was written"
    )
    size = max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(out - expected).max())
    assert worst <= TOLERANCE[precision] * size, f"max abs error {worst:.3g} on outputs of size {size:.3g}"


def precision_of(t: Tensor) -> str:
    """The precision of a tensor's type: fp32, fp16 or bf16."""
    return {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}[str(t.dtype)]


def assert_as_near(out: Tensor, expected: Tensor, plain: Tensor, precision: str) -> None:
    """A kernel's torch tensor is as near the float64 `expected` as plain torch at its precision; fp32 also within 1e-5."""
    assert out.shape == expected.shape, (out.shape, expected.shape)
    out, expected, plain = (t.detach().cpu().double() for t in (out, expected, plain))
    assert bool(out.isfinite().all()), "the output holds NaN: something was read before it was written, or not written"
    size = max(1.0, float(expected.abs().max()))
    error = float((out - expected).abs().max())
    limit = FACTOR * float((plain - expected).abs().max()) + FLOOR[precision] * size
    assert error <= limit, f"max abs error {error:.3g}, plain torch's limit {limit:.3g}"
    assert precision != "fp32" or error <= TOLERANCE["fp32"] * size, f"max abs error {error:.3g}"


def in_e4m3(op: str, packed: Any, x: Tensor, steps: int = 0, activation: str = "relu", slope: float = 0.0) -> Tensor:
    """A step as its Triton kernel does it under "fp8": by the packed numbers, rounded where the kernel rounds.

    x [N, C, H, W] holds fp16 numbers; sums and the result are of its dtype.
    """
    from torch.nn.functional import conv2d

    from fastsr.ops.conv2d import act

    common = importlib.import_module("fastsr.kernels.triton.common")

    def half(v: Tensor) -> Tensor:
        return v.half().to(x)

    def weights(w: Tensor, scale: Tensor | None, co: int, ci: int) -> Tensor:
        k = {1: 1, 9: 3, 25: 5}[len(w)]
        w = w[:, :ci, :co].to(x) if scale is None else w[:, :ci, :co].to(x) * scale[:co].to(x)
        return w.permute(2, 1, 0).reshape(co, ci, k, k)

    if op == "pconv_block":
        c, m = packed.c, packed.w1.shape[1]
        w1, w3 = weights(packed.w1[None], None, m, c), weights(packed.w3, packed.scale, c, m)
        b1, b3 = (None if b is None else b.to(x) for b in (packed.b1, packed.b3))
        t = act(conv2d(half(act(x, activation, slope)), w1, b1), activation, slope)
        t = common.as_e4m3(t.float(), packed.t_scale).to(x)
        return half(x + conv2d(t, w3, None if b3 is None else b3[:c], padding=1))
    first, w = (weights(p.w, None, p.co, p.ci) for p in (packed.w, packed.s))
    fixed = half(conv2d(x, first, padding=packed.w.k // 2))
    z = fixed.relu()
    for left in reversed(range(steps)):
        z = (fixed + conv2d(z, w, padding=packed.s.k // 2)).relu()
        z = common.as_e4m3(z.float(), packed.z_scale).to(x) if left else half(z)
        w = weights(packed.s8.w, packed.s8.scale, packed.s.co, packed.s.ci)
    return z


def halves() -> list[str]:
    """The ISAs of this machine that compute in bf16."""
    return [isa for isa in _core.isas() if isa in ("avx512bf16", "amx")]


def run_in_halves(x: np.ndarray, scale: int, steps: list[Step], weights: dict[str, np.ndarray]) -> list[float]:
    """Run a plan in bf16 on every ISA that has it, with every setting: the same bytes for all settings of one ISA.

    Returns the distances from the float64 reference, root mean square over the size of the output.
    """
    plan = Plan("y" if x.shape[0] == 1 else "rgb", scale, tuple(steps))
    reference = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    found = []
    for isa in halves():
        results = [
            _core.Session(plan.to_dict(), weights, isa=isa, poison=True, bf16=True, **s).run(x) for s in SETTINGS
        ]
        for setting, result in zip(SETTINGS, results, strict=True):
            assert result.tobytes() == results[0].tobytes(), f"{isa}: {setting} changed the output"
        found.append(float(np.sqrt(np.square(results[0] - reference).mean() / np.square(reference).mean())))
    return found


def run_everywhere(x: np.ndarray, scale: int, steps: list[Step], weights: dict[str, np.ndarray]) -> np.ndarray:
    """Run a plan on every ISA with every setting, scratch poisoned: right, and the same bytes for all settings.

    Returns the float64 reference.
    """
    plan = Plan("y" if x.shape[0] == 1 else "rgb", scale, tuple(steps))
    reference = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    _assert_everywhere(lambda **how: _core.Session(plan.to_dict(), weights, **how).run(x), reference)
    return reference


def run_alone_everywhere(alone: Step, inputs: list[np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    """`run_everywhere` of one step on `inputs` [C, h, w] of any channels."""
    import torch

    tensors = {role: torch.from_numpy(weights[name]).double() for role, name in alone.weights.items()}
    formula = importlib.import_module(f"fastsr.ops.{alone.op}").reference
    made = formula(*(torch.from_numpy(x)[None].double() for x in inputs), **tensors, **alone.params)
    reference: np.ndarray = made[0].numpy()
    x, *others = inputs
    channels = [value.shape[0] for value in inputs]

    def run(**how: Any) -> np.ndarray:
        session = _core.Session(alone.to_dict(), weights, channels=channels, **how)
        return session.run(x, others, out=np.full(reference.shape, np.nan, np.float32))

    _assert_everywhere(run, reference)
    return reference


def _assert_everywhere(run: Callable[..., np.ndarray], reference: np.ndarray) -> None:
    for isa in _core.isas():
        results = [run(isa=isa, poison=True, **s) for s in SETTINGS]
        assert_matches(results[0], reference)
        for setting, result in zip(SETTINGS, results, strict=True):
            assert result.tobytes() == results[0].tobytes(), f"{isa}: {setting} changed the output"


def script(path: Path) -> ModuleType:
    """A file that belongs to no package, such as those of bench/, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
