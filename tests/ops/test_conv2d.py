# SPDX-License-Identifier: Apache-2.0
"""conv2d against its float64 reference: every border, activation, width, kernel size and residual, on every ISA."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr.testing import conv_weights, rng, run_everywhere, step

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
