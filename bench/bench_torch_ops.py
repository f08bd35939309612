# SPDX-License-Identifier: Apache-2.0
"""The torch operators on CPU tensors against the formulas they stand for, at the same number of threads.

Sizes are those of the networks that use them: btsrn's block at HR, three of crnet_a's recursions, annet_x3's layer.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from fastsr import _core
from fastsr import benchmark as comparison
from fastsr.benchmark import cases, engines
from fastsr.testing import conv_weights, rng

OPS = ("pconv_block", "cista", "anchored_regression")
FRAME = (160, 90)
THREADS = _core.default_threads()


def inputs_and_rest(op: str) -> tuple[list[np.ndarray], dict[str, np.ndarray], dict[str, int]]:
    """Inputs [1, C, h, w], weights and parameters."""
    w, h = FRAME

    def image(*shape: int) -> np.ndarray:
        return rng(0).random((1, *shape), dtype=np.float32)

    if op == "pconv_block":
        arrays = conv_weights([(64, 128, 1), (128, 64, 3)], 0)
        return [image(128, h, w) - 0.5], {"w1": arrays["w0"], "b1": arrays["b0"], "w3": arrays["w1"]}, {}
    if op == "cista":
        arrays = conv_weights([(256, 128, 3), (256, 256, 3)], 0)
        return [image(128, h // 2, w // 2)], {"w": arrays["w0"], "s": arrays["w1"]}, {"steps": 3}
    case = cases.anchored_regression(3)
    return [image(1, h, w), image(1, 3 * h, 3 * w)], case.weights, {"scale": 3}


@pytest.mark.parametrize("who", ["operator", "formula"])
@pytest.mark.parametrize("op", OPS)
def test_operator(benchmark: Any, op: str, who: str) -> None:
    benchmark.extra_info["checked"] = "skipped"
    torch = pytest.importorskip("torch")
    from fastsr import torch_ops

    arrays, weights, params = inputs_and_rest(op)
    inputs = [torch.from_numpy(x) for x in arrays]
    rest = {role: torch.from_numpy(np.array(v)) for role, v in weights.items()}
    reference = importlib.import_module(f"fastsr.ops.{op}").reference
    runs = {
        "operator": lambda: getattr(torch_ops, op)(*inputs, **rest, **params),
        "formula": lambda: reference(*inputs, **rest, **params),
    }
    with engines.torch_threads(THREADS), torch.no_grad():
        comparison.compare(runs["operator"]().numpy(), runs["formula"]().numpy(), who)
        benchmark.group = f"operator {op}, {THREADS} threads"
        benchmark.extra_info |= {"checked": True, "what": op, "engine": who, "threads": THREADS}
        benchmark.pedantic(runs[who], rounds=5, warmup_rounds=1)
