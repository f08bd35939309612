# SPDX-License-Identifier: Apache-2.0
"""kernels/cuda/pconv_block against the float64 reference: emulated everywhere, for real where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import pconv_block  # noqa: E402
from fastsr.kernels.cuda.compile import KernelError  # noqa: E402
from fastsr.ops.pconv_block import reference  # noqa: E402
from fastsr.testing import assert_as_near, precision_of  # noqa: E402

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def weights_of(c: int, m: int, seed: int, biases: bool = True) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"w1": (m, c, 1, 1), "w3": (c, m, 3, 3)} | ({"b1": (m,), "b3": (c,)} if biases else {})
    found = {role: torch.randn(shape, generator=random) for role, shape in shapes.items()}
    # Values stay of order 1; a b1 of that size shows a t that is not 0 beyond the border.
    return {role: w / (w[0].numel() ** 0.5 if w.ndim == 4 else 1) for role, w in found.items()}


def image(n: int, c: int, h: int, w: int, dtype: Any, seed: int) -> Any:
    x = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.to(memory_format=torch.channels_last)


def check(out: Any, x: Any, weights: dict[str, Any], **params: Any) -> None:
    expected = reference(x.double(), **{role: w.to(x.device).double() for role, w in weights.items()}, **params)
    plain = reference(x, **{role: w.to(x.device, x.dtype) for role, w in weights.items()}, **params)
    assert_as_near(out, expected, plain, precision_of(out))


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("shape", "channels", "precision", "arch"),
    [
        ((1, 1, 1), (128, 64), "bf16", "sm_80"),  # the paper's width, four slots
        ((2, 17, 19), (128, 64), "bf16", "sm_80"),
        ((1, 5, 37), (128, 64), "fp16", "sm_89"),  # two slots
        ((3, 16, 16), (96, 48), "bf16", "sm_89"),
        ((1, 31, 18), (48, 16), "fp16", "sm_80"),  # chunks of 16, runs of 4 channels
        ((2, 2, 33), (16, 16), "bf16", "sm_80"),
    ],
)
def test_emulated(
    emulation: Any, order: str, shape: tuple[int, int, int], channels: tuple[int, int], precision: str, arch: str
) -> None:
    emulation.order, emulation.arch = order, arch
    n, h, w = shape
    weights = weights_of(*channels, seed=h)
    x = image(n, channels[0], h, w, HALVES[precision], seed=w)
    how = {"activation": "leaky_relu", "slope": 0.2} if n > 1 else {"activation": "relu"}
    check(emulation.run(pconv_block, weights, x.dtype, x, **how), x, weights, **how)


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_without_biases_and_with_any_activation(emulation: Any, activation: str) -> None:
    weights = weights_of(16, 16, seed=1, biases=False)
    x = image(1, 16, 9, 21, torch.float16, seed=2)
    how = {"activation": activation, "slope": 0.3}
    check(emulation.run(pconv_block, weights, x.dtype, x, **how), x, weights, **how)


def test_other_memory_orders_are_taken(emulation: Any) -> None:
    weights = weights_of(16, 16, seed=3)
    x = image(2, 16, 5, 6, torch.bfloat16, seed=4)
    expected = emulation.run(pconv_block, weights, x.dtype, x)
    assert torch.equal(emulation.run(pconv_block, weights, x.dtype, x.contiguous()), expected)
    packed = pconv_block.pack(weights, {}, x.dtype, torch.device("cpu"))
    unaligned = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(2, 5, 6, 16).permute(0, 3, 1, 2).copy_(x)
    assert torch.equal(pconv_block.launch(packed, unaligned), expected)


def test_what_it_does_not_support_it_says() -> None:
    def ask(c: int = 128, m: int = 64, dtype: Any = torch.bfloat16) -> Any:
        return pconv_block.supports({}, {"w1": (m, c, 1, 1), "w3": (c, m, 3, 3)}, dtype)

    assert ask() is None
    assert ask(c=96, m=48) is None
    assert "float32" in ask(dtype=torch.float32)
    for c, m in ((256, 64), (112, 64), (128, 128), (128, 24), (20, 16)):
        assert f"{c}-{m} channels" in ask(c, m)


def test_an_input_that_does_not_fit_is_refused(emulation: Any) -> None:
    packed = pconv_block.pack(weights_of(16, 16, seed=1), {}, torch.float16, torch.device("cpu"))
    for x in (torch.zeros(1, 32, 4, 4, dtype=torch.float16), torch.zeros(1, 16, 4, 4), torch.zeros(0, 16, 4, 4).half()):
        with pytest.raises(KernelError, match=r"not torch.float16 \[N, 16, H, W\]"):
            pconv_block.launch(packed, x)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", sorted(HALVES))
@pytest.mark.parametrize(
    ("shape", "channels"),
    [((1, 1, 1), (128, 64)), ((2, 67, 131), (128, 64)), ((1, 180, 320), (128, 64)), ((1, 33, 47), (48, 16))],
)
def test_on_the_gpu(gpu: Any, precision: str, shape: tuple[int, int, int], channels: tuple[int, int]) -> None:
    n, h, w = shape
    weights = weights_of(*channels, seed=h)
    x = image(n, channels[0], h, w, HALVES[precision], seed=w).to(gpu)
    packed = pconv_block.pack(weights, {"slope": 0.2}, x.dtype, gpu)
    out = pconv_block.launch(packed, x, activation="leaky_relu", slope=0.2)
    check(out, x, weights, activation="leaky_relu", slope=0.2)
    assert torch.equal(out, pconv_block.launch(packed, x, activation="leaky_relu", slope=0.2))
