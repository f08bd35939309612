# SPDX-License-Identifier: Apache-2.0
"""ANNet: facts of its paper, and the plan against the module."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr import executors  # noqa: E402
from fastsr.families.annet import FEATURES, VARIANTS, ANNet, Integration  # noqa: E402


def small(scale: int, sizes: tuple[int, ...] = (5, 3)) -> ANNet:
    torch.manual_seed(scale)
    return ANNet(scale, sizes, maps=8, atoms=32, features=6)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_layer_has_the_size_of_the_paper(name: str) -> None:
    model = ANNet(**VARIANTS[name])
    s, n1 = model.scale, FEATURES[model.scale]
    assert {2: 28, 3: 30, 4: 30}[s] == n1
    assert model.atoms.shape == (1024, n1)
    assert model.projections.shape == (1024, 9 * s * s, n1)
    assert torch.allclose(model.atoms.norm(dim=1), torch.ones(1024))


def test_only_the_integration_is_trained() -> None:
    model = ANNet(3, (9, 5, 5, 3))
    d = 64
    assert sum(p.numel() for p in model.parameters()) == 81 * d + d + 2 * (25 * d * d + d) + 9 * d + 1


@pytest.mark.parametrize("sizes", [(), (5, 3), (9, 5, 5, 3)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_plan_is_the_module(scale: int, sizes: tuple[int, ...]) -> None:
    model = small(scale, sizes).double()
    plan, weights = model.lower()
    assert plan.scale == scale
    assert plan.domain == "y"
    assert set(plan.tensor_names) == set(weights)
    x = np.random.default_rng(0).random((1, 7, 5), dtype=np.float32)
    out = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    with torch.no_grad():
        expected = small(scale, sizes).double()(torch.from_numpy(x)[None].double())[0]
    assert np.abs(out - expected.numpy()).max() < 1e-12


def test_a_fresh_integration_is_the_identity() -> None:
    net = Integration((9, 5, 5, 3), 8)
    net.reset()
    x = torch.rand(1, 1, 20, 20)
    assert torch.equal(net(x), x)


def test_the_interior_is_the_output_away_from_borders() -> None:
    torch.manual_seed(0)
    net = Integration((5, 3), 8)
    x = torch.rand(2, 1, 20, 17)
    r = net.radius
    assert r == 3
    assert (net.interior(x) - net(x)[..., r:-r, r:-r]).abs().max() < 1e-6
    assert (net.interior(x, half=True) - net.interior(x)).abs().max() < 2e-2


def test_a_flat_image_stays_flat() -> None:
    """Derivative features of a flat image are zero, so nothing is added to it."""
    from fastsr.train.regressors import raw_filters

    model = small(3, ())
    basis = torch.randn(6, 4 * 81).double()
    model.filters = (basis @ raw_filters(3).flatten(1)).reshape(6, 15, 15).float()
    assert (model(torch.full((1, 1, 6, 6), 0.5)) - 0.5).abs().max() < 1e-4
