# SPDX-License-Identifier: Apache-2.0
"""SRCNN: facts of its paper, where it starts, its interior."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fastsr.families.srcnn import SRCNN  # noqa: E402
from fastsr.ops import resize_bicubic  # noqa: E402


@pytest.mark.parametrize(("sizes", "weights"), [((9, 1, 5), 8032), ((9, 3, 5), 24416), ((9, 5, 5), 57184)])
def test_the_networks_have_the_papers_weights(sizes: tuple[int, ...], weights: int) -> None:
    """Section 4.3: 8 032, 24 416 and 57 184 parameters (biases left out)."""
    model = SRCNN(3, sizes)
    assert sum(conv.weight.numel() for conv in model.layers) == weights
    assert model.radius == sum(k // 2 for k in sizes)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_fresh_network_is_almost_bicubic(channels: int) -> None:
    torch.manual_seed(0)
    model = SRCNN(2, (9, 5, 5), channels=channels)
    model.reset()
    x = torch.rand(1, channels, 12, 12)
    with torch.no_grad():
        assert (model(x) - resize_bicubic.reference(x, scale=2).clamp(0)).abs().max() < 0.2


def test_the_interior_is_the_output_away_from_borders() -> None:
    torch.manual_seed(0)
    model = SRCNN(2, (9, 3, 5))
    x = torch.rand(1, 1, 20, 22)
    bicubic = resize_bicubic.reference(x, scale=2)
    r = model.radius
    with torch.no_grad():
        assert (model.interior(bicubic) - model(x)[..., r:-r, r:-r]).abs().max() < 1e-5


def test_widths_must_fit_the_sizes() -> None:
    with pytest.raises(ValueError, match="2 widths"):
        SRCNN(3, (9, 5, 5), (64,))
