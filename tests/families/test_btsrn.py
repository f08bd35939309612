# SPDX-License-Identifier: Apache-2.0
"""BTSRN: facts of its paper, where it starts, the full network on the CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fastsr import executors  # noqa: E402
from fastsr.families.btsrn import BTSRN  # noqa: E402
from fastsr.ops import resize_bicubic  # noqa: E402
from fastsr.testing import assert_matches, rng  # noqa: E402


def test_the_parameters_are_counted() -> None:
    """Ten blocks of 128 -> 64 -> 128 and, at x4, one more between the two enlargements."""
    block = 128 * 64 + 64 + 9 * 64 * 128 + 128
    ends = 3 * 128 + 128 + 128 * 3 + 3
    for scale, blocks, ups in ((2, 10, [2]), (3, 10, [3]), (4, 11, [2, 2])):
        want = blocks * block + ends + sum(128 * 128 * s * s + 128 for s in ups)
        assert sum(p.numel() for p in BTSRN(scale).parameters()) == want


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_fresh_network_is_almost_bicubic(scale: int) -> None:
    torch.manual_seed(0)
    model = BTSRN(scale)
    model.reset()
    x = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        assert (model(x) - resize_bicubic.reference(x, scale=scale)).abs().max() < 0.2


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_the_full_network_is_right_in_fp32(slope: float) -> None:
    torch.manual_seed(0)
    model = BTSRN(3, slope=slope)
    model.reset()
    with torch.no_grad():
        model.leave.weight *= 20  # else bicubic alone would do
    plan, weights = model.lower()
    x = rng(0).random((3, 21, 34), dtype="float32")
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    assert_matches(executors.get("cpu").prepare(plan, weights).run(x), expected)


def test_a_wrong_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale 5"):
        BTSRN(5)
