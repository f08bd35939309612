# SPDX-License-Identifier: Apache-2.0
"""Products in e4m3: the kernels against the same rounded numbers in float64 (tight), and against exact ones (loose)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr.testing import in_e4m3, rng  # noqa: E402

SIZES = ((1, 1, 1), (2, 5, 3), (1, 9, 19))
"""n, h, w: single pixels, less than a tile, one tile and a tail"""
TIGHT = 2.0**-11
"""relative norm: one rounding of the result to fp16; of e4m3 a tie that falls to the other side changes one number of many"""
LOOSE = 2.0**-4
"""relative norm: one rounding to e4m3"""


def kernel(op: str) -> Any:
    return importlib.import_module(f"fastsr.kernels.triton.{op}")


def weight(seed: int, co: int, ci: int, k: int) -> torch.Tensor:
    return torch.from_numpy((rng(seed).standard_normal((co, ci, k, k)) / np.sqrt(2 * ci * k * k)).astype(np.float32))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.cpu().double() - b.cpu().double()).norm() / b.cpu().double().norm())


def check(
    device: Any, op: str, x: torch.Tensor, weights: dict[str, torch.Tensor], everything: bool = False, **params: Any
) -> None:
    module, reference = kernel(op), importlib.import_module(f"fastsr.ops.{op}").reference
    asked = {**params, "fp8": x}
    assert module.supports(asked, {role: tuple(w.shape) for role, w in weights.items()}, torch.float16) is None
    packed = module.pack(weights, asked, torch.float16, device)
    here = module.pack(weights, asked, torch.float16, torch.device("cpu"))
    given = x.half()
    same = in_e4m3(op, here, given.double(), **params)
    exact = reference(x.double(), **{role: w.double() for role, w in weights.items()}, **params)
    for config in module.candidates(packed, device) if everything else (None,):
        out = module.launch(packed, given.to(device), **params, config=config)
        assert out.dtype == torch.float16
        assert distance(out, same) <= TIGHT, config
    base = x.double() if op == "pconv_block" else 0.0
    assert distance(out.cpu() - base, exact - base) <= LOOSE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("n0", "m0"), [(12, 32), (32, 80)])
def test_cista(device: Any, size: tuple[int, int, int], n0: int, m0: int) -> None:
    n, h, w = size
    weights = {"w": weight(1, m0, n0, 3), "s": 0.5 * weight(2, m0, m0, 3)}
    check(device, "cista", torch.from_numpy(rng(5).random((n, n0, h, w), dtype=np.float32)), weights, steps=2)


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_recursions(device: Any, steps: int) -> None:
    weights = {"w": weight(1, 32, 16, 3), "s": 0.5 * weight(2, 32, 32, 3)}
    x = torch.from_numpy(rng(5).random((1, 16, 6, 7), dtype=np.float32))
    check(device, "cista", x, weights, everything=steps == 2, steps=steps)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("c", "m", "bias"), [(24, 20, True), (48, 128, False)])
def test_pconv_block(device: Any, size: tuple[int, int, int], c: int, m: int, bias: bool) -> None:
    n, h, w = size
    weights = {"w1": weight(1, m, c, 1), "w3": weight(3, c, m, 3)}
    if bias:
        weights |= {"b1": torch.rand(m) - 0.5, "b3": torch.rand(c) - 0.5}
    x = torch.from_numpy(rng(6).random((n, c, h, w), dtype=np.float32)) - 0.25
    check(device, "pconv_block", x, weights, activation="leaky_relu" if bias else "relu", slope=0.2)


def test_every_candidate_of_pconv_block(device: Any) -> None:
    weights = {"w1": weight(1, 64, 128, 1), "w3": weight(3, 128, 64, 3)}
    x = torch.from_numpy(rng(6).random((1, 128, 3, 17), dtype=np.float32)) - 0.25
    check(device, "pconv_block", x, weights, everything=True)


def test_scales_hold_for_weights_and_values_of_any_size(device: Any) -> None:
    weights = {"w": 1e3 * weight(1, 32, 16, 3), "s": 0.5 * weight(2, 32, 32, 3)}
    weights["s"][3] *= 1e-5
    weights["s"][4] = 0
    check(device, "cista", torch.from_numpy(rng(5).random((1, 16, 6, 7), dtype=np.float32)), weights, steps=3)


def test_what_lies_above_the_sample_saturates(device: Any) -> None:
    weights = {"w": weight(1, 32, 16, 3), "s": 0.5 * weight(2, 32, 32, 3)}
    x = torch.from_numpy(rng(5).random((1, 16, 6, 7), dtype=np.float32))
    module = kernel("cista")
    packed = module.pack(weights, {"fp8": x / 100, "steps": 3}, torch.float16, device)
    out = module.launch(packed, x.half().to(device), steps=3).cpu()
    same = in_e4m3(
        "cista",
        module.pack(weights, {"fp8": x / 100, "steps": 3}, torch.float16, torch.device("cpu")),
        x.half().double(),
        steps=3,
    )
    assert bool(out.isfinite().all())
    assert distance(out, same) <= TIGHT


def test_what_e4m3_does_not_take_says_why() -> None:
    half, asked = torch.float16, {"fp8": torch.zeros(1)}
    assert (
        kernel("cista").supports(asked, {"w": (40, 16, 3, 3), "s": (40, 40, 3, 3)}, half)
        == "40 channels: e4m3 takes multiples of 16"
    )
    assert "need more than 16" in kernel("pconv_block").supports(asked, {"w1": (16, 64, 1, 1)}, half)
    assert kernel("cista").supports({}, {"w": (40, 16, 3, 3), "s": (40, 40, 3, 3)}, half) is None
