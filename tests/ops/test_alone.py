# SPDX-License-Identifier: Apache-2.0
"""One op without a plan around it: inputs of any channels, residuals and bases of their own, on every ISA in any tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core
from fastsr.errors import InputError, ModelError
from fastsr.plan import Step
from fastsr.testing import anchored_weights, conv_weights, rng, run_alone_everywhere, step

torch = pytest.importorskip("torch")

SIZES = {"h": st.integers(1, 40), "w": st.integers(1, 70), "seed": st.integers(0, 99)}
ACTIVATIONS = st.sampled_from(["none", "relu", "leaky_relu"])


def image(seed: int, *shape: int) -> np.ndarray:
    return rng(seed).random(shape, dtype=np.float32) - 0.4


@given(
    ci=st.integers(1, 70),
    co=st.integers(1, 70),
    k=st.sampled_from([1, 3, 5, 7]),
    border=st.sampled_from(["zero", "replicate", "symmetric"]),
    activation=ACTIVATIONS,
    before=ACTIVATIONS,
    residual=st.booleans(),
    inside=st.booleans(),
    **SIZES,
)
def test_conv2d(
    h: int,
    w: int,
    seed: int,
    ci: int,
    co: int,
    k: int,
    border: str,
    activation: str,
    before: str,
    residual: bool,
    inside: bool,
) -> None:
    how = {"border": border, "activation": activation, "input_activation": before, "sum_inside": inside, "slope": 0.2}
    inputs = [image(seed, ci, h, w)] + [image(seed + 1, co, h, w)] * residual
    names = ("x", "r")[: len(inputs)]
    run_alone_everywhere(
        step("conv2d", names, "out", {"w": "w0", "b": "b0"}, **how), inputs, conv_weights([(co, ci, k)], seed)
    )


def test_conv2d_of_many_channels() -> None:
    inputs = [image(1, 256, 29, 41), image(2, 192, 29, 41)]
    run_alone_everywhere(
        step("conv2d", ("x", "r"), "out", {"w": "w0"}, activation="relu", sum_inside=True),
        inputs,
        conv_weights([(192, 256, 3)], 3),
    )


@given(scale=st.integers(1, 4), features=st.integers(1, 20), atoms=st.integers(1, 40), **SIZES)
def test_anchored_regression(h: int, w: int, seed: int, scale: int, features: int, atoms: int) -> None:
    """The base is any image of the output's size."""
    inputs = [image(seed, 1, h, w), image(seed + 1, 1, h * scale, w * scale)]
    roles = {role: role for role in ("filters", "atoms", "projections")}
    run_alone_everywhere(
        step("anchored_regression", ("x", "base"), "out", roles, scale=scale),
        inputs,
        anchored_weights(scale, 5, features, atoms, seed),
    )


@given(width=st.integers(1, 140), inner=st.integers(1, 70), activation=ACTIVATIONS, bias=st.booleans(), **SIZES)
def test_pconv_block(h: int, w: int, seed: int, width: int, inner: int, activation: str, bias: bool) -> None:
    roles = {"w1": "w0", "w3": "w1"} | ({"b1": "b0", "b3": "b1"} if bias else {})
    run_alone_everywhere(
        step("pconv_block", ("x",), "out", roles, activation=activation, slope=0.1),
        [image(seed, width, h, w)],
        conv_weights([(inner, width, 1), (width, inner, 3)], seed),
    )


@given(n0=st.integers(1, 40), m0=st.integers(1, 70), k=st.sampled_from([1, 3, 5]), steps=st.integers(1, 5), **SIZES)
def test_cista(h: int, w: int, seed: int, n0: int, m0: int, k: int, steps: int) -> None:
    run_alone_everywhere(
        step("cista", ("y",), "z", {"w": "w0", "s": "w1"}, steps=steps),
        [image(seed, n0, h, w)],
        conv_weights([(m0, n0, k), (m0, m0, k)], seed),
    )


@given(c=st.integers(1, 70), scale=st.integers(2, 4), activation=ACTIVATIONS, **SIZES)
def test_upsample_residual(h: int, w: int, seed: int, c: int, scale: int, activation: str) -> None:
    weights = {"w": image(seed, c, c, scale, scale) / np.float32(np.sqrt(c)), "b": image(seed, c)}
    how = {"scale": scale, "activation": activation, "slope": 0.2}
    run_alone_everywhere(
        step("upsample_residual", ("x",), "out", {"w": "w", "b": "b"}, **how), [image(seed, c, h, w)], weights
    )


@given(c=st.integers(1, 9), scale=st.integers(1, 4), **SIZES)
def test_resize_bicubic_and_pixel_shuffle(h: int, w: int, seed: int, c: int, scale: int) -> None:
    run_alone_everywhere(step("resize_bicubic", ("x",), "out", scale=scale), [image(seed, c, h, w)], {})
    run_alone_everywhere(step("pixel_shuffle", ("x",), "out", scale=scale), [image(seed, c * scale**2, h, w)], {})


@given(c=st.integers(1, 70), factor=st.booleans(), **SIZES)
def test_scale_shift(h: int, w: int, seed: int, c: int, factor: bool) -> None:
    weights = {"scale": image(seed, c), "shift": image(seed + 1, c)}
    roles = {role: role for role in (("scale", "shift") if factor else ("shift",))}
    run_alone_everywhere(step("scale_shift", ("x",), "out", roles), [image(seed, c, h, w)], weights)


def test_large_outputs_are_written_past_the_caches() -> None:
    """More than 48 MB, rows that begin off a vector's bounds: streaming stores must not be used where they may not be."""
    inputs = [image(1, 3, 311, 651)]
    expected = torch.nn.functional.conv2d(torch.from_numpy(inputs[0]), torch.ones(64, 3, 1, 1)).numpy()
    alone = step("conv2d", ("x",), "out", {"w": "w"}).to_dict()
    for isa in _core.isas():
        session = _core.Session(alone, {"w": np.ones((64, 3, 1, 1), np.float32)}, channels=[3], isa=isa)
        out = np.full(expected.size + 1, np.nan, np.float32)[1:].reshape(expected.shape)  # not even 8-byte aligned
        assert np.abs(session.run(inputs[0], out=out) - expected).max() < 1e-5


@pytest.mark.parametrize("algorithm", ["direct", "columns", "tiles"])
def test_no_number_stays_none(algorithm: str) -> None:
    """A NaN comes out of relu as it comes out of torch's: training must see that it has diverged."""
    x = image(1, 8, 20, 20)
    x[3, 9, 9] = np.nan
    weights = conv_weights([(8, 8, 3)], 0)
    for how in ({"activation": "relu"}, {"input_activation": "relu"}, {"activation": "leaky_relu"}):
        alone = step("conv2d", ("x",), "out", {"w": "w0"}, slope=0.1, **how).to_dict()
        for isa in _core.isas():
            out = _core.Session(alone, weights, channels=[8], isa=isa, algorithm=algorithm).run(x)
            assert np.isnan(out[:, 8:11, 8:11]).all(), (isa, how)


def test_what_a_step_alone_is_told_about_itself() -> None:
    block = step("pconv_block", ("x",), "out", {"w1": "w0", "w3": "w1"}).to_dict()
    session = _core.Session(block, conv_weights([(8, 16, 1), (16, 8, 3)], 0), channels=[16])
    assert (session.channels, session.scale, session.radius) == (16, 1, 1)
    assert [row["op"] for row in session.explain(9, 9)] == ["pconv_block"]
    assert session.flops(10, 10) == 2 * 100 * (16 * 8 + 9 * 16 * 8)


RESIDUAL = step("conv2d", ("x", "r"), "out", {"w": "w0"})
BAD: dict[str, tuple[Step, list[int], str]] = {
    "channels of w": (step("conv2d", ("x",), "out", {"w": "w0"}), [7], "expected"),
    "channels of the residual": (RESIDUAL, [8, 5], "the residual has 5 channels, expected 4"),
    "one count for two inputs": (RESIDUAL, [8], "2 inputs, channels of 1"),
    "none": (step("conv2d", (), "out", {"w": "w0"}), [], "0 inputs"),
    "no channels": (step("resize_bicubic", ("x",), "out", scale=2), [0], "of 0 channels"),
    "twice": (step("conv2d", ("x", "x"), "out", {"w": "w0"}), [8, 4], "given twice"),
    "composed": (step("cista", ("x", "r"), "out", {"w": "w0", "s": "w0"}, steps=2), [8, 8], "takes one input"),
    "unknown": (step("fold", ("x",), "out"), [8], "not one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_step_is_refused(name: str) -> None:
    bad, channels, message = BAD[name]
    with pytest.raises(ModelError, match=message):
        _core.Session(bad.to_dict(), conv_weights([(4, 8, 3)], 0), channels=channels)


def test_bad_inputs_are_refused() -> None:
    session = _core.Session(RESIDUAL.to_dict(), conv_weights([(4, 8, 3)], 0), channels=[8, 4])
    x, r = image(0, 8, 5, 6), image(1, 4, 5, 6)
    assert session.run(x, [r]).shape == (4, 5, 6)
    for others, message in [
        ([], "0 inputs beside the first, expected 1"),
        ([r, r], "2 inputs"),
        ([r[:, :4]], "input 1"),
        ([x], "input 1"),
    ]:
        with pytest.raises(InputError, match=message):
            session.run(x, others)
    with pytest.raises(InputError, match=r"expected a \[8, h, w\]"):
        session.run(r, [r])
    with pytest.raises(InputError, match=r"out: expected a \[4, 5, 6\]"):
        session.run(x, [r], out=np.zeros((4, 6, 5), np.float32))
    for out in (np.zeros((4, 5, 6)), np.zeros((4, 6, 5), np.float32).transpose(0, 2, 1)):  # a copy would be written
        with pytest.raises(TypeError):
            session.run(x, [r], out=out)
