# SPDX-License-Identifier: Apache-2.0
"""The activations that take an exponential: their error over the whole range, on every ISA, by every end of a sum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fastsr import _core
from fastsr.plan import Param
from fastsr.testing import rng, step

EPS = 2.0**-23  # a unit of the last place of 1, and at most of any float of its size

# (largest error relative to the result, then absolute); 1 / (1 + e^-v) adds two roundings to e^-v's 2 units, and near 0
# 1 - e^-v keeps the absolute error of e^-v, halved and rounded again.
CURVES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "sigmoid": (lambda v: 1 / (1 + np.exp(-v)), 3.5 * EPS, 2e-38),
    "silu": (lambda v: v / (1 + np.exp(-v)), 3.5 * EPS, 2e-36),
    "tanh": (np.tanh, 0.0, 2 * EPS),
}


def values() -> np.ndarray:
    """Evenly over what matters and beyond, and every power of two down to the smallest."""
    small = 2.0 ** np.arange(-149, 8)
    whole = np.concatenate(
        [small, -small, [0.0, 1e30, -1e30], np.linspace(-1, 1, 60_000), np.linspace(-95, 95, 190_001)]
    )
    return whole.astype(np.float32)[: len(whole) // 100 * 100].reshape(1, 100, -1)


def run(isa: str, x: np.ndarray, how: dict[str, Param], *residual: np.ndarray, channels: int = 1) -> np.ndarray:
    """What a 1 x 1 convolution by 1 makes of x, in each of `channels` outputs."""
    names = ("x", "r")[: 1 + len(residual)]
    alone = step("conv2d", names, "out", {"w": "w"}, **how).to_dict()
    weights = {"w": np.ones((channels, 1, 1, 1), np.float32)}
    return _core.Session(alone, weights, channels=[1] + [channels] * len(residual), isa=isa).run(x, residual)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("isa", _core.isas())
def test_errors_are_as_stated(isa: str, name: str) -> None:
    formula, relative, absolute = CURVES[name]
    x = values()
    with np.errstate(over="ignore"):
        exact = formula(x.astype(np.float64))
    for channels in (1, 9):  # rows of one output, and groups of many
        out = run(isa, x, {"activation": name}, channels=channels)
        error = np.abs(out - exact) - absolute
        assert (error <= relative * np.abs(exact)).all(), float((error / np.maximum(np.abs(exact), 1e-37)).max() / EPS)


@pytest.mark.parametrize("isa", _core.isas())
def test_exp_is_within_two_units(isa: str) -> None:
    """Below -20 sigmoid is e^v to less than a unit: 1 + e^-v is e^-v, and its reciprocal adds half a unit."""
    x = np.linspace(-87, -20, 300_000, dtype=np.float32).reshape(1, 100, -1)
    exact = np.exp(x.astype(np.float64))
    out = run(isa, x, {"activation": "sigmoid"})
    assert (np.abs(out - exact) / np.spacing(exact.astype(np.float32))).max() <= 2.0 + 1.0


@pytest.mark.parametrize("isa", _core.isas())
def test_a_gate(isa: str) -> None:
    x, r = values(), rng(1).random((9, *values().shape[1:]), dtype=np.float32) - 0.5
    x = np.clip(x, -100, 100)
    out = run(isa, x, {"gate": True}, r, channels=9)
    exact = (x.astype(np.float64) + r) / 2 * np.tanh(x.astype(np.float64) / 2)
    assert (np.abs(out - exact) <= 2 * EPS * (1 + np.abs(x + r) * (1 + np.abs(x)))).all()


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize(
    "how", [{"activation": "silu"}, {"activation": "sigmoid"}, {"activation": "tanh"}, {"gate": True}]
)
def test_no_number_stays_none(isa: str, how: dict[str, Param]) -> None:
    x = np.zeros((1, 5, 40), np.float32)
    x[0, 2, 17] = np.nan
    r = [np.zeros((9, 5, 40), np.float32)] if "gate" in how else []
    out = run(isa, x, how, *r, channels=9)
    assert np.isnan(out[:, 2, 17]).all()
    assert np.isnan(out).sum() == 9
