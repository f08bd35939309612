# SPDX-License-Identifier: Apache-2.0
"""kernels/cuda/cista against the float64 reference: emulated everywhere, for real where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import cista  # noqa: E402
from fastsr.kernels.cuda.compile import KernelError  # noqa: E402
from fastsr.ops.cista import reference  # noqa: E402
from fastsr.testing import assert_as_near, precision_of  # noqa: E402

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def weights_of(n0: int, m0: int, seed: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(m0, n0, 3, 3, generator=random) / (9 * n0) ** 0.5
    s = torch.randn(m0, m0, 3, 3, generator=random) / (9 * m0) ** 0.5
    return {"w": w, "s": s * 0.7}  # a recursion that neither dies nor grows


def image(n: int, c: int, h: int, w: int, dtype: Any, seed: int) -> Any:
    y = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return y.to(memory_format=torch.channels_last)


def check(out: Any, y: Any, weights: dict[str, Any], steps: int) -> None:
    expected = reference(y.double(), **{role: w.to(y.device).double() for role, w in weights.items()}, steps=steps)
    plain = reference(y, **{role: w.to(y.device, y.dtype) for role, w in weights.items()}, steps=steps)
    assert_as_near(out, expected, plain, precision_of(out))


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("shape", "channels", "steps", "precision", "arch"),
    [
        ((1, 1, 1), (64, 128), 2, "bf16", "sm_80"),  # chunks of 64, items of 128 channels
        ((2, 17, 19), (64, 64), 2, "bf16", "sm_80"),
        ((1, 3, 37), (128, 128), 1, "fp16", "sm_89"),  # chunks of 32
        ((2, 16, 16), (32, 96), 3, "fp16", "sm_80"),  # 32 for w, three items of 32 channels
        ((1, 31, 18), (16, 48), 2, "bf16", "sm_89"),  # chunks of 16, runs of 4 channels
        ((1, 2, 33), (16, 16), 0, "fp16", "sm_80"),
    ],
)
def test_emulated(
    emulation: Any,
    order: str,
    shape: tuple[int, int, int],
    channels: tuple[int, int],
    steps: int,
    precision: str,
    arch: str,
) -> None:
    emulation.order, emulation.arch = order, arch
    n, h, w = shape
    weights = weights_of(*channels, seed=h)
    y = image(n, channels[0], h, w, HALVES[precision], seed=w)
    check(emulation.run(cista, weights, y.dtype, y, steps=steps), y, weights, steps)


def test_crnet_a_s_width(emulation: Any) -> None:
    weights = weights_of(128, 256, seed=1)
    y = image(1, 128, 2, 18, torch.bfloat16, seed=2)
    check(emulation.run(cista, weights, y.dtype, y, steps=1), y, weights, 1)


def test_what_it_does_not_support_it_says() -> None:
    def ask(n0: int = 64, m0: int = 1024, k: int = 3, dtype: Any = torch.float16) -> Any:
        shapes = {"w": (m0, n0, k, k), "s": (m0, m0, k, k)}
        return cista.supports({"steps": 25}, shapes, dtype)

    assert ask() is None
    assert ask(n0=128, m0=256) is None
    assert "float64" in ask(dtype=torch.float64)
    assert "5 x 5" in ask(k=5)
    assert "60 and 256" in ask(n0=60, m0=256)


def test_an_input_that_does_not_fit_is_refused(emulation: Any) -> None:
    packed = cista.pack(weights_of(16, 16, seed=1), {}, torch.float16, torch.device("cpu"))
    with pytest.raises(KernelError, match=r"y is torch.float32 \[1, 16, 4, 4\]"):
        cista.launch(packed, torch.zeros(1, 16, 4, 4), steps=1)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", sorted(HALVES))
@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        *(((1, 1, 1), (128, 256)), ((2, 67, 33), (128, 256)), ((1, 24, 40), (64, 1024)), ((1, 33, 47), (16, 48))),
        *(((3, 130, 257), (128, 256)), ((1, 50, 31), (64, 64))),
    ],
)
def test_on_the_gpu(gpu: Any, precision: str, shape: tuple[int, int, int], channels: tuple[int, int]) -> None:
    n, h, w = shape
    weights = weights_of(*channels, seed=h)
    y = image(n, channels[0], h, w, HALVES[precision], seed=w).to(gpu)
    packed = cista.pack(weights, {}, y.dtype, gpu)
    for config in (None, *cista.candidates(packed, gpu)):
        out = cista.launch(packed, y, steps=4, config=config)
        check(out, y, weights, 4)
        assert torch.equal(out, cista.launch(packed, y, steps=4, config=config)), config
