# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel against its float64 reference, in fp32, fp16 and bf16, at sizes that break assumptions."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr.ops import anchored_regression as formula  # noqa: E402
from fastsr.testing import anchored_weights, assert_as_near, rng  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SIZES = ((1, 1, 1), (2, 5, 3), (1, 9, 19))
"""n, h, w: single pixels, less than a tile, one tile and a tail"""


def kernel(op: str) -> Any:
    return importlib.import_module(f"fastsr.kernels.triton.{op}")


def plane(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng(seed).random(shape, dtype=np.float32)) - 0.25


def weight(seed: int, co: int, ci: int, k: int) -> torch.Tensor:
    return torch.from_numpy((rng(seed).standard_normal((co, ci, k, k)) / np.sqrt(2 * ci * k * k)).astype(np.float32))


def check(
    device: Any,
    precision: str,
    op: str,
    inputs: list[torch.Tensor],
    weights: dict[str, torch.Tensor],
    config: Any = None,
    **params: Any,
) -> torch.Tensor:
    """Launch and compare: with float64, at most twice plain torch's error at the same precision."""
    dtype, module = DTYPES[precision], kernel(op)
    reference = importlib.import_module(f"fastsr.ops.{op}").reference
    assert module.supports(params, {role: tuple(v.shape) for role, v in weights.items()}, dtype) is None
    expected = reference(*(x.double() for x in inputs), **{r: v.double() for r, v in weights.items()}, **params)
    plain = reference(*(x.to(dtype) for x in inputs), **{r: v.to(dtype) for r, v in weights.items()}, **params)
    given = [(x if x.shape[1] <= 4 else x.to(dtype)).to(device) for x in inputs]
    before = [x.clone() for x in given]
    packed = module.pack(weights, params, dtype, device)
    out = module.launch(packed, *given, **params, **({"config": config} if config else {}))
    assert out.dtype == (torch.float32 if out.shape[1] <= 4 else dtype)
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True)), "an input was written"
    assert_as_near(out, expected, plain, precision)
    return out


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("border", ["zero", "replicate", "symmetric"])
def test_conv2d_between_maps(device: Any, precision: str, size: tuple[int, int, int], border: str) -> None:
    n, h, w = size
    k = {"zero": 3, "replicate": 5, "symmetric": 1}[border]
    x, r = plane(1, n, 20, h, w), plane(2, n, 24, h, w)
    weights = {"w": weight(3, 24, 20, k), "b": plane(4, 24)}
    check(device, precision, "conv2d", [x, r], weights, border=border, activation="leaky_relu", slope=0.2)


@pytest.mark.parametrize("precision", DTYPES)
def test_conv2d_with_its_activation_before_and_after_the_sum(device: Any, precision: str) -> None:
    x, r = plane(1, 1, 16, 5, 9), plane(2, 1, 48, 5, 9)
    how = {"input_activation": "relu", "activation": "relu", "sum_inside": True}
    check(device, precision, "conv2d", [x, r], {"w": weight(3, 48, 16, 3)}, **how)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("channels", "k", "border"), [(1, 9, "replicate"), (3, 1, "zero"), (3, 5, "symmetric")])
def test_conv2d_of_an_image(device: Any, precision: str, channels: int, k: int, border: str) -> None:
    weights = {"w": weight(3, 20, channels, k), "b": plane(4, 20)}
    for n, h, w in SIZES:
        x, r = plane(1, n, channels, h, w), plane(2, n, 20, h, w)
        check(device, precision, "conv2d", [x], weights, border=border, activation="relu")
        check(device, precision, "conv2d", [x, r], weights, border=border, activation="relu", sum_inside=True)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("channels", "k", "border"), [(1, 5, "replicate"), (3, 1, "zero"), (4, 3, "symmetric")])
def test_conv2d_to_few_channels(device: Any, precision: str, channels: int, k: int, border: str) -> None:
    weights = {"w": weight(3, channels, 20, k), "b": plane(4, channels)}
    for n, h, w in SIZES:
        x, r = plane(1, n, 20, h, w), plane(2, n, channels, h, w)
        check(device, precision, "conv2d", [x, r], weights, border=border, input_activation="relu")


ENDS: dict[str, dict[str, Any]] = {
    "silu": {"activation": "silu"},
    "sigmoid": {"activation": "sigmoid"},
    "tanh": {"activation": "tanh", "sum_inside": True},
    "gate": {"gate": True},
    "slopes": {"activation": "leaky_relu"},
    "slopes inside": {"activation": "leaky_relu", "sum_inside": True},
}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("ci", "co"), [(20, 24), (3, 20), (20, 3)])
def test_ends_of_conv2d(device: Any, precision: str, ci: int, co: int, end: str) -> None:
    weights = {"w": weight(3, co, ci, 3), "b": plane(4, co)}
    if end.startswith("slopes"):
        weights["slopes"] = plane(5, co)
    check(device, precision, "conv2d", [plane(1, 2, ci, 5, 3), plane(2, 2, co, 5, 3)], weights, **ENDS[end])


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("channels", "co"), [((17, 24), 24), ((3, 20, 5), 20), ((20, 3), 2), ((1, 3), 16)])
def test_conv2d_of_joined_inputs(device: Any, precision: str, channels: tuple[int, ...], co: int) -> None:
    weights = {"w": weight(3, co, sum(channels), 3), "b": plane(4, co)}
    for n, h, w in SIZES[1:]:
        parts = [plane(i, n, c, h, w) for i, c in enumerate(channels)]
        how: dict[str, Any] = {"join": len(channels), "border": "replicate"}
        check(device, precision, "conv2d", [*parts, plane(9, n, co, h, w)], weights, gate=True, **how)
        check(device, precision, "conv2d", parts, weights, activation="relu", **how)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_pconv_block(device: Any, precision: str, size: tuple[int, int, int]) -> None:
    n, h, w = size
    weights = {"w1": weight(1, 12, 24, 1), "b1": plane(2, 12), "w3": weight(3, 24, 12, 3), "b3": plane(4, 24)}
    check(device, precision, "pconv_block", [plane(5, n, 24, h, w)], weights, activation="leaky_relu", slope=0.2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_pconv_block_of_the_papers_width_takes_several_tiles_a_program(device: Any, precision: str) -> None:
    weights = {"w1": weight(1, 64, 128, 1), "w3": weight(3, 128, 64, 3)}
    check(device, precision, "pconv_block", [plane(5, 1, 128, 18, 50)], weights, activation="relu")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cista(device: Any, precision: str, steps: int) -> None:
    weights = {"w": weight(1, 32, 12, 3), "s": 0.5 * weight(2, 32, 32, 3)}
    check(device, precision, "cista", [plane(5, 1, 12, 5, 17)], weights, steps=steps)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_cista_of_the_papers_width(device: Any, precision: str) -> None:
    """The tiles of wide layers: eight warps, of which one version of Triton is known to make wrong 3 x 3 convolutions."""
    weights = {"w": weight(1, 256, 128, 3), "s": 0.5 * weight(2, 256, 256, 3)}
    check(device, precision, "cista", [plane(5, 1, 128, 9, 7)], weights, steps=2)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("scale", [2, 3])
def test_upsample_residual(device: Any, precision: str, scale: int) -> None:
    weights = {"w": weight(1, 20, 20, scale), "b": plane(2, 20)}
    for n, h, w in SIZES:
        how: dict[str, Any] = {"scale": scale, "activation": "leaky_relu", "slope": 0.1}
        check(device, precision, "upsample_residual", [plane(5, n, 20, h, w)], weights, **how)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_resize_bicubic(device: Any, scale: int) -> None:
    for n, h, w in (*SIZES, (1, 2, 150)):
        for channels in (1, 3):
            check(device, "fp32", "resize_bicubic", [plane(5, n, channels, h, w)], {}, scale=scale)


@pytest.mark.parametrize("precision", DTYPES)
def test_pixel_shuffle_and_scale_shift(device: Any, precision: str) -> None:
    for n, h, w in SIZES:
        check(device, precision, "pixel_shuffle", [plane(5, n, 5 * 9, h, w)], {}, scale=3)
        check(device, precision, "scale_shift", [plane(5, n, 6, h, w)], {"shift": plane(1, 6), "scale": plane(2, 6)})
        check(device, precision, "scale_shift", [plane(5, n, 3, h, w)], {"shift": plane(1, 3)})


def tensors(scale: int, features: int, atoms: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in anchored_weights(scale, 9, features, atoms, seed).items()}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("scale", "features", "atoms"), [(1, 1, 1), (2, 7, 70), (3, 30, 130), (4, 37, 64)])
def test_anchored_regression(device: Any, precision: str, scale: int, features: int, atoms: int) -> None:
    weights = tensors(scale, features, atoms)
    for n, h, w in SIZES:
        x, base = plane(5, n, 1, h, w), plane(6, n, 1, h * scale, w * scale)
        check(device, precision, "anchored_regression", [x, base], weights, scale=scale)


def anchors_of(x: torch.Tensor, weights: dict[str, torch.Tensor], device: Any) -> torch.Tensor:
    """The kernel's anchor of every patch [h + 2, w + 2]: each atom's projection writes its index to all of a patch."""
    module = kernel("anchored_regression")
    count, n1 = weights["atoms"].shape
    # Atom a predicts (a + 1) d_a . f at the first pixel of the middle cell and d_a . f at the second, for s = 2.
    p = torch.zeros(count, 36, n1)
    p[:, 14], p[:, 15] = weights["atoms"], (1 + torch.arange(count))[:, None] * weights["atoms"]
    packed = module.pack({**weights, "projections": p}, {}, torch.float32, device)
    h, w = x.shape[-2:]
    out = module.launch(packed, x.to(device), torch.zeros(1, 1, 2 * h, 2 * w, device=device), scale=2)[0, 0].cpu()
    score, times = out[0::2, 0::2], out[0::2, 1::2]
    return torch.where(score == 0, 1, times / score).round().long() - 1


def test_anchors_are_those_of_fp32(device: Any) -> None:
    """Equal to float64's but where two scores differ by less than fp32 resolves (1e-5 relative)."""
    weights = tensors(2, 30, 300, 3)
    x = torch.from_numpy(rng(1).random((1, 1, 24, 25), dtype=np.float32))
    found = anchors_of(x, weights, device).flatten()
    f = formula.features(x.double(), weights["filters"].double())[0, :, 1:-1, 1:-1].flatten(1).T
    scores = (f @ weights["atoms"].double().T).abs()
    best = scores.max(1).values
    mine = scores.gather(1, found[:, None])[:, 0]
    assert (found == scores.argmax(1)).double().mean() >= 0.99
    assert ((best - mine) <= 1e-5 * best).all()


def test_ties_go_to_the_lowest_atom(device: Any) -> None:
    weights = tensors(2, 4, 100, 0)
    weights["atoms"] *= 1e-3
    weights["atoms"][70] = weights["atoms"][5] = torch.tensor([1.0, 0, 0, 0])
    weights["atoms"][9] = -weights["atoms"][5]
    weights["filters"][1:] *= 1e-3
    x = torch.from_numpy(rng(1).random((1, 1, 9, 9), dtype=np.float32))
    assert (anchors_of(x, weights, device) == 5).all()


def test_flat_patches_are_left_alone(device: Any) -> None:
    assert kernel("anchored_regression").FLAT.value == formula.FLAT
    weights = tensors(3, 8, 16)
    weights["filters"] -= weights["filters"].mean((1, 2), keepdim=True)
    x, base = torch.full((1, 1, 6, 7), 0.5), plane(1, 1, 1, 18, 21)
    module = kernel("anchored_regression")
    packed = module.pack(weights, {}, torch.float32, device)
    assert torch.equal(module.launch(packed, x.to(device), base.to(device), scale=3).cpu(), base)


@pytest.mark.parametrize("op", ["conv2d", "pconv_block"])
def test_any_strides_and_no_launch_depends_on_its_neighbours(device: Any, op: str) -> None:
    """An image in a batch, cut out of a larger one or laid out otherwise gives the same bytes."""
    weights = (
        {"w": weight(1, 24, 20, 3)} if op == "conv2d" else {"w1": weight(1, 12, 20, 1), "w3": weight(2, 20, 12, 3)}
    )
    module = kernel(op)
    packed = module.pack(weights, {}, torch.float16, device)
    x = plane(3, 2, 20, 7, 11).half().to(device)
    alone = module.launch(packed, x[1:])
    assert torch.equal(module.launch(packed, x)[1:], alone)
    larger = torch.zeros(1, 24, 9, 30, dtype=torch.float16, device=device)
    larger[:, 2:22, 1:8, 5:27:2] = x[1:]
    assert torch.equal(module.launch(packed, larger[:, 2:22, 1:8, 5:27:2]), alone)
    assert torch.equal(module.launch(packed, x.contiguous(memory_format=torch.channels_last)[1:]), alone)


@pytest.mark.parametrize("op", ["conv2d", "pconv_block", "upsample_residual", "anchored_regression"])
def test_every_candidate_gives_the_same(device: Any, op: str) -> None:
    x = plane(3, 1, 1 if op == "anchored_regression" else 16, 9, 18)
    weights: dict[str, torch.Tensor] = {
        "conv2d": {"w": weight(1, 40, 16, 3)},
        "pconv_block": {"w1": weight(1, 16, 16, 1), "w3": weight(2, 16, 16, 3)},
        "upsample_residual": {"w": weight(1, 16, 16, 2)},
        "anchored_regression": tensors(2, 9, 30),
    }[op]
    params = {"scale": 2} if op in ("upsample_residual", "anchored_regression") else {}
    inputs = [x, plane(4, 1, 1, 18, 36)] if op == "anchored_regression" else [x]
    packed = kernel(op).pack(weights, params, torch.float16, device)
    found = kernel(op).candidates(packed, device)
    assert len(found) > 1
    for config in found:
        check(device, "fp16", op, inputs, weights, config, **params)


def test_what_is_not_supported_says_why(device: Any) -> None:
    half = torch.float16
    assert "70 features" in kernel("anchored_regression").supports({}, {"filters": (70, 9, 9), "atoms": (5, 70)}, half)
    assert "too few" in kernel("cista").supports({}, {"w": (4, 4, 3, 3), "s": (4, 4, 3, 3)}, half)
    assert "128 in the middle" in kernel("pconv_block").supports({}, {"w1": (200, 64, 1, 1)}, half)
    assert "too few" in kernel("upsample_residual").supports({}, {"w": (3, 3, 2, 2)}, half)
    assert "15 x 15" in kernel("conv2d").supports({}, {"w": (8, 8, 17, 17)}, half)
    assert "float64" in kernel("scale_shift").supports({}, {"shift": (3,)}, torch.float64)
    assert "two or three" in kernel("shallow").supports([{}], [{"w": (64, 1, 9, 9)}], half)
