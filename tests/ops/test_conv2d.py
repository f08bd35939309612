# SPDX-License-Identifier: Apache-2.0
"""conv2d against its float64 reference: every border, activation, width, kernel size and residual, on every ISA."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr.plan import Param
from fastsr.testing import conv_weights, rng, run_alone_everywhere, run_everywhere, step

torch = pytest.importorskip("torch")


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 70),
    k=st.sampled_from([1, 3, 5, 7, 9]),
    maps=st.integers(1, 21),
    border=st.sampled_from(["zero", "replicate", "symmetric"]),
    activation=st.sampled_from(["none", "relu", "leaky_relu"]),
    before=st.sampled_from(["none", "relu", "leaky_relu"]),
    inside=st.booleans(),
    seed=st.integers(0, 99),
)
def test_kernel_matches_the_reference(
    h: int, w: int, k: int, maps: int, border: str, activation: str, before: str, inside: bool, seed: int
) -> None:
    x = rng(seed).random((1, h, w), dtype=np.float32)
    weights = conv_weights([(maps, 1, k), (maps, maps, k), (1, maps, 3)], seed)
    how = {"border": border, "activation": activation, "slope": 0.2}
    steps = [
        step("conv2d", ("lr",), "l", {"w": "w0", "b": "b0"}, **how),
        step("conv2d", ("l", "l"), "m", {"w": "w1", "b": "b1"}, input_activation=before, sum_inside=inside, **how),
        step("conv2d", ("m", "lr"), "out", {"w": "w2"}, border=border),
    ]
    del weights["b2"]
    run_everywhere(x, 1, steps, weights)


@pytest.mark.parametrize(("channels", "k"), [(64, 5), (33, 3), (130, 1)])
@pytest.mark.parametrize("border", ["zero", "symmetric"])
def test_deep_chains(channels: int, k: int, border: str) -> None:
    x = rng(1).random((1, 50, 67), dtype=np.float32)
    weights = conv_weights([(channels, 1, 9), (channels, channels, k), (1, channels, 3)], 1)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}, border=border, activation="relu"),
        step("conv2d", ("a",), "b", {"w": "w1", "b": "b1"}, border=border, activation="relu"),
        step("conv2d", ("b", "lr"), "out", {"w": "w2", "b": "b2"}, border=border),
    ]
    run_everywhere(x, 1, steps, weights)


def test_three_channels() -> None:
    x = rng(2).random((3, 19, 33), dtype=np.float32)
    weights = conv_weights([(20, 3, 5), (3, 20, 5)], 2)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}, border="replicate", activation="relu"),
        step("conv2d", ("a",), "out", {"w": "w1", "b": "b1"}, border="replicate"),
    ]
    run_everywhere(x, 1, steps, weights)


PARTS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def parts(channels: list[int], h: int, w: int, seed: int) -> list[np.ndarray]:
    return [rng(seed + i).random((c, h, w), dtype=np.float32) - 0.4 for i, c in enumerate(channels)]


@given(
    channels=PARTS,
    co=st.integers(1, 40),
    k=st.sampled_from([1, 3, 5]),
    border=st.sampled_from(["zero", "replicate", "symmetric"]),
    before=st.sampled_from(["none", "relu"]),
    end=st.sampled_from(["none", "silu", "gate", "slopes"]),
    h=st.integers(1, 30),
    w=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_joined_inputs(
    channels: list[int], co: int, k: int, border: str, before: str, end: str, h: int, w: int, seed: int
) -> None:
    inputs = [*parts(channels, h, w, seed), *parts([co], h, w, seed + 50)]
    names = (*(f"x{i}" for i in range(len(channels))), "r")
    weights = conv_weights([(co, sum(channels), k)], seed)
    roles = {"w": "w0", "b": "b0"}
    how: dict[str, Param] = {"activation": end}
    if end == "gate":
        how = {"gate": True}
    if end == "slopes":
        how, roles["slopes"] = {"activation": "leaky_relu", "sum_inside": True}, "slopes"
        weights["slopes"] = rng(seed).random(co, dtype=np.float32)
    how |= {"border": border, "input_activation": before}
    run_alone_everywhere(step("conv2d", names, "out", roles, join=len(channels), **how), inputs, weights)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu", "sigmoid", "tanh"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("co", [2, 33])
def test_every_activation_with_a_residual(activation: str, inside: bool, co: int) -> None:
    how: dict[str, Param] = {"activation": activation, "sum_inside": inside, "slope": 0.3}
    weights = conv_weights([(co, 9, 3)], 2)
    run_alone_everywhere(step("conv2d", ("x", "r"), "out", {"w": "w0"}, **how), parts([9, co], 11, 37, 1), weights)


def test_one_value_joined_with_itself_and_others_in_a_plan() -> None:
    """As in SPAN and RRDB: values that live on while others are made, read under several borders and twice by one step."""
    weights = conv_weights([(12, 3, 3), (7, 12, 3), (12, 31, 1), (8, 24, 3), (3, 27, 3)], 3)
    weights["slopes"] = rng(4).random(8, dtype=np.float32)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0", "b": "b0"}, activation="silu"),
        step("conv2d", ("a",), "b", {"w": "w1", "b": "b1"}, border="symmetric"),
        step("conv2d", ("a", "b", "a", "a"), "c", {"w": "w2"}, join=3, gate=True),
        step("conv2d", ("c", "a"), "d", {"w": "w3", "slopes": "slopes"}, join=2, activation="leaky_relu"),
        step("conv2d", ("b", "d", "a", "lr"), "out", {"w": "w4"}, join=3, border="replicate"),
    ]
    for h, w in ((1, 1), (23, 70), (130, 41)):
        run_everywhere(rng(2).random((3, h, w), dtype=np.float32), 1, steps, weights)


def test_steps_that_differ_in_slope_alone_share_no_weights() -> None:
    weights = conv_weights([(8, 1, 3), (8, 8, 3), (1, 8, 3)], 1)
    steps = [
        step("conv2d", ("lr",), "a", {"w": "w0"}),
        step("conv2d", ("a",), "b", {"w": "w1"}, activation="leaky_relu", slope=0.5),
        step("conv2d", ("b",), "c", {"w": "w1"}, activation="leaky_relu", slope=-0.5),
        step("conv2d", ("c",), "out", {"w": "w2"}),
    ]
    run_everywhere(rng(2).random((1, 9, 20), dtype=np.float32), 1, steps, weights)
