# SPDX-License-Identifier: Apache-2.0
"""kernels/cuda/anchored_regression against the float64 reference: emulated everywhere, for real where there is a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastsr import catalog, modelfile

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import anchored_regression  # noqa: E402
from fastsr.kernels.cuda.compile import KernelError  # noqa: E402
from fastsr.ops.anchored_regression import features, reference  # noqa: E402
from fastsr.testing import anchored_weights, assert_as_near, precision_of  # noqa: E402

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def weights_of(scale: int, features: int, atoms: int, seed: int, halves: bool = True) -> dict[str, Any]:
    """As model files have them, with projections that are half floats, or not."""
    found = anchored_weights(scale, 9, features, atoms, seed)
    weights = {role: torch.from_numpy(w) for role, w in found.items()}
    return weights | ({"projections": weights["projections"].half().float()} if halves else {})


def images(n: int, h: int, w: int, scale: int, dtype: Any, seed: int) -> tuple[Any, Any]:
    """x with a flat part, and a base of its own: a detail that goes astray shows."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, h, w, generator=random)
    x[:, :, : h // 2, : w // 2] = 0.0
    return x.to(dtype), torch.rand(n, 1, h * scale, w * scale, generator=random).to(dtype)


def near_ties(x: Any, weights: dict[str, Any], scale: int) -> Any:
    """Pixels on a patch whose two best scores differ, but by less than 1e-5: there another anchor is as right."""
    f = features(x, weights["filters"])
    scores = torch.einsum("nkij,ak->naij", f, weights["atoms"]).abs().topk(2, dim=1).values
    gap = scores[:, :1] - scores[:, 1:]
    near = ((gap > 0) & (gap < 1e-5 * scores[:, :1])).double()
    cells = torch.nn.functional.max_pool2d(near, 3, stride=1)
    return cells.repeat_interleave(scale, 2).repeat_interleave(scale, 3).bool()


def check(out: Any, x: Any, base: Any, weights: dict[str, Any], scale: int) -> None:
    exact = {role: w.to(x.device).double() for role, w in weights.items()}
    expected = reference(x.double(), base.double(), **exact, scale=scale)
    # Plain torch at the precision of the images: fp32 inside, as the anchors need it, rounded at the end.
    single = {role: w.to(x.device) for role, w in weights.items()}
    plain = reference(x.float(), base.float(), **single, scale=scale).to(x.dtype)
    assert bool(torch.isfinite(out).all())
    ties = near_ties(x.double(), exact, scale)
    assert float(ties.double().mean()) < 0.01
    out, plain = (torch.where(ties, expected.to(t.dtype), t) for t in (out, plain))
    assert_as_near(out, expected, plain, precision_of(out))


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("shape", "scale", "features", "atoms", "precision", "halves"),
    [
        ((1, 1, 1), 4, 30, 1024, "fp32", True),
        ((1, 17, 31), 3, 30, 1024, "fp32", True),
        ((2, 14, 23), 2, 28, 100, "fp16", True),
        ((2, 15, 7), 3, 30, 65, "bf16", True),
        ((1, 3, 45), 4, 32, 64, "fp32", False),
    ],
)
def test_emulated(
    emulation: Any,
    order: str,
    shape: tuple[int, int, int],
    scale: int,
    features: int,
    atoms: int,
    precision: str,
    halves: bool,
) -> None:
    emulation.order, emulation.arch = order, "sm_89"
    weights = weights_of(scale, features, atoms, seed=scale, halves=halves)
    x, base = images(*shape, scale, TYPES[precision], seed=atoms)
    out = emulation.run(anchored_regression, weights, x.dtype, x, base, scale=scale)
    check(out, x, base, weights, scale)


def test_the_lowest_atom_wins_a_tie(emulation: Any) -> None:
    weights = weights_of(3, 30, 128, seed=1)
    # Each atom three times, once turned round: only the first has a projection.
    atoms, projections = weights["atoms"], weights["projections"]
    for copy, sign in ((1, 1), (6, -1), (70, 1)):
        atoms[copy : copy + 58 : 7] = sign * atoms[:58:7]
        projections[copy : copy + 58 : 7] = 0
    x, base = images(1, 12, 12, 3, torch.float32, seed=2)
    out = emulation.run(anchored_regression, weights, x.dtype, x, base, scale=3)
    check(out, x, base, weights, 3)
    assert float((out - base).abs().max()) > 0.01


def test_anchors_of_scores_that_nearly_tie(emulation: Any) -> None:
    """Atoms that differ in their 18th bit: one half float each could not tell them apart."""
    weights = weights_of(2, 30, 256, seed=5)
    random = torch.Generator().manual_seed(6)
    near = weights["atoms"][:16].repeat(16, 1)
    weights["atoms"] = near * (1 + torch.randint(-2, 3, near.shape, generator=random) * 2.0**-17)
    x, base = images(1, 12, 20, 2, torch.float32, seed=7)
    out = emulation.run(anchored_regression, weights, x.dtype, x, base, scale=2)
    exact = reference(x.double(), base.double(), **{k: v.double() for k, v in weights.items()}, scale=2)
    wrong = float(((out - exact).abs() > 1e-5).double().mean())
    single = float(((reference(x, base, **weights, scale=2) - exact).abs() > 1e-5).double().mean())
    assert wrong <= 2 * single + 0.02, (wrong, single)


def test_the_shipped_model(emulation: Any) -> None:
    """annet_x3's own atoms, on a picture of edges, ramps and noise: no anchor differs from float64's."""
    file = modelfile.read(catalog.locate("annet_x3"))
    (step,) = (step for step in file.plan.steps if step.op == "anchored_regression")
    weights = {role: torch.from_numpy(np.array(file.weights[name], np.float32)) for role, name in step.weights.items()}
    x, base = images(1, 16, 23, 3, torch.float32, seed=8)
    x = 0.02 * x + torch.linspace(0, 0.5, 23) + 0.4 * (torch.arange(16)[:, None] > torch.arange(23) / 2)
    out = emulation.run(anchored_regression, weights, x.dtype, x, base, **step.params)
    check(out, x, base, weights, 3)


def test_a_tile_does_not_show(emulation: Any) -> None:
    """The same pixels from another place in another tile: the same bits."""
    weights = weights_of(3, 30, 64, seed=3)
    x, base = images(1, 40, 30, 3, torch.float32, seed=4)
    whole = emulation.run(anchored_regression, weights, x.dtype, x, base, scale=3)
    part = emulation.run(anchored_regression, weights, x.dtype, x[..., 3:, 5:], base[..., 9:, 15:], scale=3)
    assert torch.equal(part[..., 18:, 18:], whole[..., 27:, 33:])


def test_what_it_does_not_support_it_says() -> None:
    def ask(scale: int = 3, features: int = 30, atoms: int = 1024, size: int = 9, dtype: Any = torch.float32) -> Any:
        shapes = {"filters": (features, size, size), "atoms": (atoms, features), "projections": (atoms, 81, features)}
        return anchored_regression.supports({"scale": scale}, shapes, dtype)

    assert ask() is None
    assert "scale 5" in ask(scale=5)
    assert "40 features" in ask(features=40)
    assert "5000 atoms" in ask(atoms=5000)
    assert "15 pixels" in ask(size=15)
    assert "float64" in ask(dtype=torch.float64)


def test_images_that_do_not_fit_are_refused(emulation: Any) -> None:
    packed = anchored_regression.pack(weights_of(2, 28, 64, seed=1), {"scale": 2}, torch.float32, torch.device("cpu"))
    with pytest.raises(KernelError, match=r"base is \[1, 1, 8, 9\], not \[1, 1, 8, 8\]"):
        anchored_regression.launch(packed, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 9), scale=2)
    with pytest.raises(KernelError, match="float16"):
        anchored_regression.launch(packed, torch.zeros(1, 1, 4, 4).half(), torch.zeros(1, 1, 8, 8).half(), scale=2)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", sorted(TYPES))
@pytest.mark.parametrize(
    ("shape", "scale", "features"), [((1, 1, 1), 2, 28), ((2, 61, 47), 3, 30), ((1, 90, 160), 4, 30)]
)
def test_on_the_gpu(gpu: Any, precision: str, shape: tuple[int, int, int], scale: int, features: int) -> None:
    weights = weights_of(scale, features, 1024, seed=scale)
    x, base = (t.to(gpu) for t in images(*shape, scale, TYPES[precision], seed=features))
    packed = anchored_regression.pack(weights, {"scale": scale}, x.dtype, gpu)
    out = anchored_regression.launch(packed, x, base, scale=scale)
    check(out, x, base, weights, scale)
    assert torch.equal(out, anchored_regression.launch(packed, x, base, scale=scale))
