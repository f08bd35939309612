# SPDX-License-Identifier: Apache-2.0
"""The operators on CPU tensors: the C++ core where it can, the formula where it cannot, whatever the tensors' strides."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fastsr import _core, torch_ops  # noqa: E402
from fastsr.testing import anchored_weights, assert_matches, rng  # noqa: E402

ACTIVATIONS = st.sampled_from(["none", "relu", "leaky_relu"])
SIZES = {"n": st.integers(1, 3), "h": st.integers(1, 20), "w": st.integers(1, 40), "seed": st.integers(0, 99)}


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Every test begins without packed weights."""
    torch_ops.forget()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def kept() -> list[Any]:
    """Sessions, or None for what the core declined."""
    return [made for _, _, made in torch_ops._packed.values()]


def rand(seed: int, *shape: int) -> Any:
    return torch.from_numpy(rng(seed).random(shape, dtype=np.float32) - 0.4)


def conv(seed: int, co: int, ci: int, k: int) -> Any:
    return rand(seed, co, ci, k, k) / np.sqrt(ci * k * k)


def formula(op: str, call: dict[str, Any]) -> Any:
    inputs = [call[name] for name in torch_ops.INPUTS if call.get(name) is not None]
    rest = {name: value for name, value in call.items() if name not in torch_ops.INPUTS}
    return importlib.import_module(f"fastsr.ops.{op}").reference(*inputs, **rest)


def assert_right(op: str, call: dict[str, Any]) -> None:
    """The core made the operator's result, a dense float32 tensor near the float64 formula."""
    assert_near(op, call)
    assert isinstance(kept()[-1], _core.Session)


def assert_near(op: str, call: dict[str, Any]) -> None:
    out = getattr(torch_ops, op)(**call)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    doubled = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    assert_matches(out.numpy(), formula(op, doubled).numpy())


@given(ci=st.integers(1, 70), co=st.integers(1, 70), residual=st.booleans(), bias=st.booleans(), inside=st.booleans(),
       border=st.sampled_from(["zero", "replicate", "symmetric"]), activation=ACTIVATIONS, before=ACTIVATIONS, **SIZES)  # fmt: skip
def test_conv2d(n: int, h: int, w: int, seed: int, ci: int, co: int, residual: bool, bias: bool, inside: bool,
                border: str, activation: str, before: str) -> None:  # fmt: skip
    call = {
        "x": rand(seed, n, ci, h, w),
        "residual": rand(seed + 1, n, co, h, w) if residual else None,
        "w": conv(seed, co, ci, (1, 3, 5)[seed % 3]),
        "b": rand(seed, co) if bias else None,
        "border": border,
        "input_activation": before,
        "activation": activation,
        "sum_inside": inside,
        "slope": 0.2,
    }
    assert_right("conv2d", call)


@given(scale=st.integers(1, 4), features=st.integers(1, 12), atoms=st.integers(1, 40), **SIZES)
def test_anchored_regression(n: int, h: int, w: int, seed: int, scale: int, features: int, atoms: int) -> None:
    weights = {role: torch.from_numpy(v) for role, v in anchored_weights(scale, 5, features, atoms, seed).items()}
    x, base = rand(seed, n, 1, h, w), rand(seed, n, 1, h * scale, w * scale)
    assert_right("anchored_regression", {"x": x, "base": base, **weights, "scale": scale})


@given(c=st.integers(1, 130), m=st.integers(1, 70), activation=ACTIVATIONS, **SIZES)
def test_pconv_block(n: int, h: int, w: int, seed: int, c: int, m: int, activation: str) -> None:
    call = {"x": rand(seed, n, c, h, w), "w1": conv(seed, m, c, 1), "b1": rand(seed, m), "w3": conv(seed, c, m, 3)}
    assert_right("pconv_block", {**call, "activation": activation, "slope": 0.2})


@given(n0=st.integers(1, 40), m0=st.integers(1, 40), steps=st.integers(1, 4), **SIZES)
def test_cista(n: int, h: int, w: int, seed: int, n0: int, m0: int, steps: int) -> None:
    call = {"y": rand(seed, n, n0, h, w), "w": conv(seed, m0, n0, 3), "s": conv(seed, m0, m0, 3), "steps": steps}
    assert_right("cista", call)


@given(c=st.integers(1, 70), scale=st.integers(2, 4), **SIZES)
def test_the_small_ones(n: int, h: int, w: int, seed: int, c: int, scale: int) -> None:
    x = rand(seed, n, c, h, w)
    weight = conv(seed, c, c, scale) * scale
    assert_right("upsample_residual", {"x": x, "w": weight, "b": rand(seed, c), "scale": scale, "activation": "relu"})
    assert_right("scale_shift", {"x": x, "scale": rand(seed, c), "shift": rand(seed + 1, c)})
    assert_right("resize_bicubic", {"x": x, "scale": scale})
    assert_right("pixel_shuffle", {"x": x.repeat(1, scale**2, 1, 1), "scale": scale})


VIEWS: dict[str, Callable[[Any], Any]] = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "off the start": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:1].expand(t.shape),
    "flipped channels": lambda t: t.flip(1)[:, :],
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_and_strides(view: str) -> None:
    call = {
        "x": VIEWS[view](rand(1, 2, 8, 9, 11)),
        "residual": VIEWS[view](rand(2, 2, 12, 9, 11)),
        "w": VIEWS[view](conv(3, 12, 8, 3)),
        "b": rand(4, 24)[::2],
    }
    assert_right("conv2d", call)


def test_writes_to_weights_are_seen_and_others_are_not_packed_again() -> None:
    call = {"y": rand(1, 1, 8, 9, 11), "w": conv(2, 12, 8, 3), "s": conv(3, 12, 12, 3), "steps": 2}
    assert_right("cista", call)
    (first,) = kept()
    assert_right("cista", call)
    assert kept() == [first]
    assert_right("cista", {**call, "y": rand(5, 2, 8, 30, 7)})  # of any size and batch
    assert kept() == [first]
    call["s"].mul_(0.5)
    assert_right("cista", call)
    assert len(kept()) == 1  # in the place of the old
    assert kept() != [first]
    call["w"] = call["w"].clone()
    assert_right("cista", call)
    assert len(kept()) == 1  # the one whose tensor is gone has left


def test_weights_without_a_count_of_writes() -> None:
    with torch.inference_mode():
        call = {"x": rand(1, 1, 8, 9, 11), "residual": None, "w": conv(3, 12, 8, 3) + 0}
        assert call["w"].is_inference()
        assert_near("conv2d", call)
        call["w"].mul_(2)
        assert_near("conv2d", call)
    assert len(kept()) == 1


def test_writes_that_torch_does_not_count_are_seen() -> None:
    """Exponential means of weights are written through .data by many trainers."""
    call = {"x": rand(1, 1, 8, 9, 7), "residual": None, "w": conv(2, 8, 8, 3)}
    assert_near("conv2d", call)
    call["w"].data.mul_(0.5).add_(rand(3, 8, 8, 3, 3), alpha=0.5)
    assert_near("conv2d", call)
    call["w"].numpy()[0] = 2
    assert_near("conv2d", call)
    assert len(kept()) == 1
    torch_ops.forget()
    assert kept() == []


def test_transforms_of_torch_func() -> None:
    x, w = rand(1, 1, 4, 6, 5), conv(2, 4, 4, 3)
    found = torch.func.grad(lambda x: torch_ops.conv2d(x, None, w=w, activation="relu").square().sum())(x)
    x.requires_grad_()
    torch_ops.conv2d(x, None, w, activation="relu").square().sum().backward()
    assert torch.allclose(found, x.grad, atol=1e-5)
    with pytest.raises(TypeError, match="actviation"):  # as outside of a transform
        torch.func.grad(lambda x: torch_ops.conv2d(x, None, w=w, actviation="relu").sum())(x)
    many = torch.func.vmap(lambda x: torch_ops.cista(x[None], w, w, steps=2)[0])(rand(3, 5, 4, 6, 5))
    assert torch.allclose(many, torch_ops.cista(rand(3, 5, 4, 6, 5), w, w, steps=2), atol=1e-5)


def test_few_are_kept() -> None:
    weights = [conv(i, 4, 4, 1) for i in range(torch_ops.PACKED + 3)]
    for w in weights:
        torch_ops.conv2d(rand(1, 1, 4, 3, 3), None, w)
    assert len(kept()) == torch_ops.PACKED


def test_threads_are_torchs_and_change_no_bit() -> None:
    call = {"x": rand(1, 2, 64, 70, 90), "residual": None, "w": conv(2, 64, 64, 3)}
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(torch_ops.conv2d(**call))
        assert kept()[-1].threads == threads
    assert all(torch.equal(result, results[0]) for result in results)


def test_many_threads_at_once() -> None:
    x, w = rand(1, 2, 16, 33, 35), conv(2, 16, 16, 3)
    expected = torch_ops.conv2d(x, None, w)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(out, expected) for out in pool.map(lambda _: torch_ops.conv2d(x, None, w), range(16)))


def call(**changes: Any) -> dict[str, Any]:
    return {"x": rand(1, 2, 8, 5, 6), "residual": None, "w": conv(2, 4, 8, 3), **changes}


BY_FORMULA: dict[str, tuple[str, dict[str, Any]]] = {
    "float64": ("conv2d", call(x=rand(1, 2, 8, 5, 6).double(), w=conv(2, 4, 8, 3).double())),
    "bfloat16": ("conv2d", call(x=rand(1, 2, 8, 5, 6).bfloat16(), w=conv(2, 4, 8, 3).bfloat16())),
    "a residual for all images": ("conv2d", call(residual=rand(3, 1, 4, 5, 6))),
    "no images": ("conv2d", call(x=rand(1, 0, 8, 5, 6))),
    "a scale of 5": ("upsample_residual", {"x": rand(1, 1, 4, 3, 3), "w": conv(2, 4, 4, 5), "b": None, "scale": 5}),
    "no steps": ("cista", {"y": rand(1, 1, 4, 3, 3), "w": conv(2, 4, 4, 3), "s": conv(3, 4, 4, 3), "steps": 0}),
    "one shift for all channels": ("scale_shift", {"x": rand(1, 1, 4, 3, 3), "scale": None, "shift": rand(2, 1)}),
}


@pytest.mark.parametrize("name", BY_FORMULA)
def test_what_the_core_declines_goes_by_the_formula(name: str) -> None:
    op, given = BY_FORMULA[name]
    out = getattr(torch_ops, op)(**given)
    assert torch.equal(out, formula(op, given))


X, BASE = rand(1, 1, 1, 4, 5), rand(2, 1, 1, 8, 10)
ANCHORED = {role: torch.from_numpy(v) for role, v in anchored_weights(2, 5, 4, 6, 0).items()} | {"scale": 2}
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "channels": ("conv2d", call(x=rand(1, 2, 7, 5, 6))),
    "the weight's dtype": ("conv2d", call(w=conv(2, 4, 8, 3).double())),
    "no pixels": ("conv2d", call(x=rand(1, 2, 8, 0, 6))),
    "the residual's size": ("conv2d", call(residual=rand(3, 2, 4, 4, 6))),
    "the bias": ("conv2d", call(b=rand(3, 5))),
    "the activation": ("conv2d", call(activation="gelu")),
    "the border": ("conv2d", call(border="wrap")),
    "channels of y": ("cista", {"y": rand(1, 1, 5, 3, 3), "w": conv(2, 4, 4, 3), "s": conv(3, 4, 4, 3), "steps": 2}),
    "channels to shuffle": ("pixel_shuffle", {"x": rand(1, 1, 7, 3, 3), "scale": 2}),
    "channels of an image": ("anchored_regression", {"x": rand(1, 1, 3, 4, 5), "base": BASE, **ANCHORED}),
    "the base's size": ("anchored_regression", {"x": X, "base": rand(2, 1, 1, 8, 9), **ANCHORED}),
    "the projections": ("anchored_regression", {"x": X, "base": BASE, **ANCHORED, "projections": rand(1, 6, 9, 4)}),
    "a factor per channel": ("scale_shift", {"x": rand(1, 1, 4, 3, 3), "scale": None, "shift": rand(2, 3)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_get_torchs_errors(name: str) -> None:
    op, given = WRONG[name]
    with pytest.raises((RuntimeError, ValueError)):
        getattr(torch_ops, op)(**given)
