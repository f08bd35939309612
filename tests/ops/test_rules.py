# SPDX-License-Identifier: Apache-2.0
"""What the rules declare (shape, radius, memory) equals what is observed: perturb one pixel and see what moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastsr import _core
from fastsr.errors import DeviceError, InputError, LimitError, ModelError

RNG = np.random.default_rng(7)


def step(op: str, inputs: list[str], out: str, weights: dict[str, str], **params: Any) -> dict[str, Any]:
    return {"op": op, "inputs": inputs, "out": out, "weights": weights, "params": params}


def plan(scale: int, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"domain": "y", "scale": scale, "steps": list(steps)}


def weights(scale: int, f: int = 9) -> dict[str, np.ndarray]:
    n, atoms = 7, 1  # one atom: linear, so that a perturbation always shows
    return {
        "filters": RNG.standard_normal((n, f, f)).astype(np.float32),
        "atoms": np.ones((atoms, n), np.float32),
        "projections": RNG.standard_normal((atoms, 9 * scale * scale, n)).astype(np.float32),
        "w": RNG.standard_normal((3, 1, 5, 5)).astype(np.float32),
        "w2": RNG.standard_normal((1, 3, 3, 3)).astype(np.float32),
    }


ROLES = {"filters": "filters", "atoms": "atoms", "projections": "projections"}
PLANS = {
    "resize": plan(3, step("resize_bicubic", ["lr"], "out", {}, scale=3)),
    "conv": plan(1, step("conv2d", ["lr"], "a", {"w": "w"}), step("conv2d", ["a"], "out", {"w": "w2"})),
    "anchored": plan(
        2,
        step("resize_bicubic", ["lr"], "b", {}, scale=2),
        step("anchored_regression", ["lr", "b"], "out", ROLES, scale=2),
    ),
    "annet": plan(
        3,
        step("resize_bicubic", ["lr"], "b", {}, scale=3),
        step("anchored_regression", ["lr", "b"], "c", ROLES, scale=3),
        step("conv2d", ["c"], "m", {"w": "w"}, border="symmetric", activation="relu"),
        step("conv2d", ["m", "c"], "out", {"w": "w2"}, border="symmetric"),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_radius_is_what_is_observed(name: str) -> None:
    session = _core.Session(PLANS[name], weights(PLANS[name]["scale"]), threads=1)
    n = 2 * session.radius + 9
    x = RNG.random((1, n, n), dtype=np.float32)
    before = session.run(x)
    changed = x.copy()
    changed[0, n // 2, n // 2] += 0.5
    moved = np.argwhere(np.abs(session.run(changed) - before)[0] > 0) // session.scale
    reach = int(np.abs(moved - n // 2).max())
    assert reach <= session.radius
    # Bicubic taps and relu may hide the outermost pixel, never more than that.
    assert reach >= session.radius - 1


@pytest.mark.parametrize("name", PLANS)
def test_explain_and_flops(name: str) -> None:
    session = _core.Session(PLANS[name], weights(PLANS[name]["scale"]))
    rows = session.explain(20, 30)
    assert [r["op"] for r in rows] == [s["op"] for s in PLANS[name]["steps"]]
    assert rows[-1]["shape"] == session.run(np.zeros((1, 20, 30), np.float32)).shape
    assert session.flops(20, 30) == sum(r["flops"] for r in rows)
    convs = [r for r in rows if r["op"] == "conv2d"]
    s = session.scale
    for r, macs in zip(convs, (25 * 3, 9 * 3), strict=False):
        assert r["flops"] == 2 * macs * 20 * s * 30 * s


def test_memory_limit_is_kept_and_changes_no_pixel() -> None:
    w = weights(3)
    free = _core.Session(PLANS["annet"], w, threads=1)
    x = RNG.random((1, 200, 300), dtype=np.float32)
    limit = free.memory(200, 300) // 2
    tight = _core.Session(PLANS["annet"], w, threads=1, memory_limit=limit)
    assert tight.memory(200, 300) <= limit
    assert max(tight.tile(200, 300)) < 200
    assert tight.run(x).tobytes() == free.run(x).tobytes()
    with pytest.raises(LimitError, match="too low"):
        _core.Session(PLANS["annet"], w, memory_limit=1000).run(x)


BAD = {
    "unknown op": (plan(1, step("fold", ["lr"], "out", {})), "not one of"),
    "value not made": (plan(1, step("conv2d", ["x"], "out", {"w": "w"})), "not made"),
    "no out": (plan(1, step("conv2d", ["lr"], "y", {"w": "one"})), "expected 'out'"),
    "wrong scale": (plan(2, step("conv2d", ["lr"], "out", {"w": "one"})), "declares"),
    "missing weight": (plan(1, step("conv2d", ["lr"], "out", {})), "missing"),
    "missing tensor": (plan(1, step("conv2d", ["lr"], "out", {"w": "gone"})), "not in the model file"),
    "even kernel": (plan(1, step("conv2d", ["lr"], "out", {"w": "even"})), "odd k"),
    "channels": (plan(1, step("conv2d", ["lr"], "out", {"w": "w2"})), "expected"),
    "border": (plan(1, step("conv2d", ["lr"], "out", {"w": "one"}, border="wrap")), "not one of"),
    "unknown parameter": (plan(1, step("conv2d", ["lr"], "out", {"w": "one"}, stride=2)), "unknown parameter"),
    "scale": (plan(3, step("resize_bicubic", ["lr"], "out", {}, scale=99)), "from 1 to 16"),
    "twice": (plan(1, step("conv2d", ["lr"], "lr", {"w": "one"})), "made twice"),
    "base": (plan(2, step("anchored_regression", ["lr", "lr"], "out", ROLES, scale=2)), "another size"),
    "inputs": (
        plan(1, step("conv2d", ["lr", "lr", "lr"], "out", {"w": "one"})),
        "of 3 inputs the parameter 'join' says how many are x",
    ),
    "joined channels": (
        plan(1, step("conv2d", ["lr", "lr"], "out", {"w": "one"}, join=2)),
        r"expected \[Co, 2, k, k\]",
    ),
    "join": (plan(1, step("conv2d", ["lr"], "out", {"w": "one"}, join=9)), "from 1 to 8"),
    "gate alone": (plan(1, step("conv2d", ["lr"], "out", {"w": "one"}, gate=True)), "gate takes a residual"),
    "gate and silu": (
        plan(1, step("conv2d", ["lr", "lr"], "out", {"w": "one"}, gate=True, activation="silu")),
        "no activation",
    ),
    "a curve before": (plan(1, step("conv2d", ["lr"], "out", {"w": "one"}, input_activation="silu")), "not one of"),
    "slopes of relu": (plan(1, step("conv2d", ["lr"], "out", {"w": "one", "slopes": "b"}, activation="relu")), "leaky"),
    "slopes": (
        plan(1, step("conv2d", ["lr"], "out", {"w": "one", "slopes": "b2"}, activation="leaky_relu")),
        "slopes has 2 entries, expected 1",
    ),
    "one input": (plan(2, step("anchored_regression", ["lr"], "out", ROLES, scale=2)), "takes x and its bicubic"),
    "atoms": (plan(1, step("anchored_regression", ["lr", "lr"], "out", ROLES, scale=1)), "shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plans_are_refused_with_one_line(name: str) -> None:
    bad, message = BAD[name]
    w = weights(2) | {"one": np.ones((1, 1, 3, 3), np.float32), "even": np.ones((1, 1, 2, 2), np.float32)}
    w |= {"b": np.ones(1, np.float32), "b2": np.ones(2, np.float32)}
    with pytest.raises(ModelError, match=message) as e:
        _core.Session(bad, w)
    assert "\n" not in str(e.value)


def test_bad_input_and_isa() -> None:
    with pytest.raises(DeviceError, match="baseline"):
        _core.Session(PLANS["resize"], {}, isa="sse9")
    session = _core.Session(PLANS["resize"], {})
    for shape in [(1, 0, 5), (1, 5, 0), (2, 5, 5), (5, 5)]:
        with pytest.raises(InputError):
            session.run(np.zeros(shape, np.float32))
