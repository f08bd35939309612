# SPDX-License-Identifier: Apache-2.0
"""CRNet: facts of its paper, where it starts, the full widths on the CPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastsr import executors  # noqa: E402
from fastsr.families.crnet import CRNetA, CRNetB  # noqa: E402
from fastsr.ops import resize_bicubic  # noqa: E402
from fastsr.testing import assert_matches, rng  # noqa: E402


def test_a_has_the_papers_parameters() -> None:
    """F0, F1, W_l, S, W_h, H of 3 x 3, the paper's n0 = 128 and m0 = 256; S counts once for 25 recursions."""
    n0, m0 = 128, 256
    want = 9 * (n0 + n0 * n0 + n0 * m0 + m0 * m0 + m0 * n0 + n0)
    assert sum(p.numel() for p in CRNetA().parameters()) == want


def test_b_has_the_papers_parameters() -> None:
    """About 10.6 million in the body: two 64 <-> 1024 and one 1024 -> 1024."""
    model = CRNetB()
    body = sum(p.numel() for p in model.body.parameters())
    assert body == 9 * (64 * 64 + 2 * 64 * 1024 + 1024 * 1024)
    assert body == pytest.approx(10.6e6, rel=0.02)


def test_a_fresh_a_is_almost_bicubic() -> None:
    torch.manual_seed(0)
    model = CRNetA(3, n0=16, m0=32, steps=5)
    model.reset()
    x = torch.rand(1, 1, 12, 12)
    with torch.no_grad():
        assert (model(x) - resize_bicubic.reference(x, scale=3)).abs().max() < 0.2


def test_b_runs_every_scale_with_one_body() -> None:
    torch.manual_seed(0)
    model = CRNetB(2, n0=8, m0=16, steps=2)
    model.reset()
    x = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        for scale in (2, 3, 4):
            assert model(x, scale).shape == (1, 3, 9 * scale, 7 * scale)
            one = CRNetB(scale, n0=8, m0=16, steps=2)
            one.load_state_dict(model.state_dict())
            assert torch.equal(one(x), model(x, scale))


@pytest.mark.parametrize(
    ("network", "config"), [(CRNetA, {"scale": 2, "steps": 4}), (CRNetB, {"scale": 2, "m0": 512, "steps": 2})]
)
def test_wide_networks_are_right_in_fp32(network: Any, config: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = network(**config)
    model.reset()
    if network is CRNetA:
        with torch.no_grad():
            model.h.weight *= 100  # else bicubic alone would do
    plan, weights = model.lower()
    x = rng(0).random((plan.channels, 17, 23), dtype="float32")
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    assert_matches(executors.get("cpu").prepare(plan, weights).run(x), expected)


def test_a_branch_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="scale 5"):
        CRNetB(5)
