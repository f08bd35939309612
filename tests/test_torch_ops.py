# SPDX-License-Identifier: Apache-2.0
"""The ops as torch operators: what opcheck asks, the reference's values and gradients, inside torch.compile."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastsr import torch_ops  # noqa: E402
from fastsr.ops import OPS  # noqa: E402
from fastsr.testing import assert_matches  # noqa: E402


def rand(*shape: int, seed: int = 0) -> Any:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) - 0.4


CALLS: dict[str, dict[str, Any]] = {
    "resize_bicubic": {"x": rand(1, 3, 4, 5), "scale": 2},
    "conv2d": {"x": rand(1, 3, 4, 5), "residual": rand(1, 6, 4, 5), "w": rand(6, 3, 3, 3), "b": rand(6)},
    "anchored_regression": {
        "x": rand(1, 1, 4, 5),
        "base": rand(1, 1, 8, 10),
        "filters": rand(4, 3, 3),
        "atoms": rand(6, 4),
        "projections": rand(6, 36, 4),
        "scale": 2,
    },
    "pconv_block": {
        "x": rand(2, 8, 4, 5),
        "w1": rand(8, 8, 1, 1),
        "b1": rand(8),
        "w3": rand(8, 8, 3, 3),
        "b3": rand(8),
    },
    "upsample_residual": {"x": rand(1, 8, 4, 5), "w": rand(8, 8, 2, 2), "b": rand(8), "scale": 2},
    "cista": {"y": rand(1, 8, 4, 5), "w": rand(12, 8, 3, 3), "s": 0.1 * rand(12, 12, 3, 3), "steps": 2},
    "pixel_shuffle": {"x": rand(1, 8, 4, 5), "scale": 2},
    "scale_shift": {"x": rand(1, 3, 4, 5), "scale": rand(3), "shift": rand(3)},
}


def leaves(op: str) -> dict[str, Any]:
    return {k: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in CALLS[op].items()}


def doubled(call: dict[str, Any]) -> dict[str, Any]:
    return {k: v.detach().double() if isinstance(v, torch.Tensor) else v for k, v in call.items()}


def reference(op: str, call: dict[str, Any]) -> Any:
    named = {name: call[name] for name in torch_ops.INPUTS if name in call}
    inputs = torch_ops._flat(named.values())
    rest = {name: value for name, value in call.items() if name not in torch_ops.INPUTS}
    if "joined" in call:
        rest["join"] = 1 + len(call["joined"])
    return importlib.import_module(f"fastsr.ops.{op}").reference(*inputs, **rest)


def test_every_op_is_an_operator() -> None:
    assert set(CALLS) == set(OPS) == set(torch_ops.SCHEMAS)
    with pytest.raises(AttributeError, match="no operator 'attention'"):
        _ = torch_ops.attention


@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients_are_the_references(op: str) -> None:
    ours, theirs = leaves(op), leaves(op)
    out, expected = getattr(torch_ops, op)(**ours), reference(op, theirs)
    assert_matches(out.detach().numpy(), reference(op, doubled(CALLS[op])).numpy())
    weight = rand(*out.shape, seed=3)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            want = theirs[name].grad
            assert torch.allclose(value.grad, torch.zeros_like(value) if want is None else want, atol=1e-6), name


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str) -> None:
    result = torch.library.opcheck(getattr(torch.ops.fastsr, op).default, (), leaves(op))
    assert set(result.values()) == {"SUCCESS"}


ENDS: dict[str, dict[str, Any]] = {
    "joined": {"joined": [rand(1, 2, 4, 5), rand(1, 1, 4, 5)]},
    "slopes": {"slopes": rand(6), "activation": "leaky_relu", "sum_inside": True},
    "gate": {"joined": [rand(1, 4, 4, 5)], "gate": True},
    "silu": {"activation": "silu"},
}


@pytest.mark.parametrize("end", ENDS)
def test_what_conv2d_joins_and_how_it_ends(end: str) -> None:
    def made() -> dict[str, Any]:
        call = CALLS["conv2d"] | ENDS[end]
        call["w"] = rand(6, 3 + sum(part.shape[1] for part in call.get("joined", [])), 3, 3)
        return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.clone().requires_grad_(), call)

    ours, theirs = made(), made()
    torch_ops.conv2d(**ours).square().sum().backward()
    reference("conv2d", theirs).square().sum().backward()
    for mine, other in zip(torch_ops._flat(ours.values()), torch_ops._flat(theirs.values()), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-4)
    for mine, other in zip(ours.get("joined", []), theirs.get("joined", []), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-4)
    assert set(torch.library.opcheck(torch.ops.fastsr.conv2d.default, (), made()).values()) == {"SUCCESS"}


def test_inside_torch_compile() -> None:
    call = leaves("cista")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def network(y: Any, w: Any, s: Any) -> Any:
        return torch_ops.cista(y, w, s, 2).sum()

    network(call["y"], call["w"], call["s"]).backward()
    again = leaves("cista")
    reference("cista", again).sum().backward()
    for name in ("y", "w", "s"):
        assert torch.allclose(call[name].grad, again[name].grad, atol=1e-5)


def test_the_way_of_cuda_tensors_in_the_interpreter(device: Any) -> None:
    call = {name: tensor.clone().to(device) for name, tensor in CALLS["conv2d"].items()}
    run = torch_ops._by_kernel("conv2d")
    torch_ops.forget()
    for _ in range(2):
        out = run(call["x"], call["residual"], call["w"], call["b"])
        assert_matches(out.cpu().numpy(), reference("conv2d", doubled(call)).cpu().numpy())
        call["w"].mul_(0.5)  # packed anew, in the place of the old
    assert len(torch_ops._packed) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_on_a_gpu_the_kernels_are_used(op: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    call = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in CALLS[op].items()}
    out = getattr(torch_ops, op)(**call)
    assert out.is_cuda
    assert (out.cpu() - reference(op, CALLS[op])).abs().max() <= 1e-5
    if "w" in call:
        call["w"].mul_(2)  # written in place: packed anew
        changed = {**CALLS[op], "w": 2 * CALLS[op]["w"]}
        assert (getattr(torch_ops, op)(**call).cpu() - reference(op, changed)).abs().max() <= 1e-4
