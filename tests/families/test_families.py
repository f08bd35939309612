# SPDX-License-Identifier: Apache-2.0
"""What holds for every family: the plan is the module, also on the CPU and after a journey through a file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr import _core, executors, load, modelfile  # noqa: E402
from fastsr.convert.states import recognised  # noqa: E402
from fastsr.families import FAMILIES  # noqa: E402
from fastsr.ops import OPS  # noqa: E402
from fastsr.testing import TOLERANCE, assert_matches, rng  # noqa: E402

QUICK: dict[str, dict[str, int]] = {
    **{family: {"n0": 16, "m0": 48, "steps": 3} for family in ("crnet_a", "crnet_b")},
    "rrdb": {"blocks": 2, "width": 16, "grow": 8},
    "compact": {"convs": 5, "width": 24},
    "edsr": {"blocks": 3},
}
"""families whose full size would take minutes in float64: the same code, narrower (test_crnet.py has the full ones)"""

ROUNDED = ("rrdb", "edsr")
"""families whose plan has weights that were multiplied, and rounded to float32"""


def variants() -> list[tuple[str, str]]:
    """(family, variant) of all; a family without torch code that imports fails here."""
    found = []
    for family, place in FAMILIES.items():
        names = importlib.import_module(place.split(":")[0]).VARIANTS
        found += [(family, name) for name in names if name.startswith(family + "_")]
    return found


def make(family: str, variant: str) -> Any:
    """The module of a variant with seeded random weights whose outputs stay of order 1."""
    module, _, name = FAMILIES[family].partition(":")
    file = importlib.import_module(module)
    torch.manual_seed(1)
    return getattr(file, name)(**file.VARIANTS[variant] | QUICK.get(family, {}))


@pytest.mark.parametrize(("family", "variant"), variants())
def test_module_plan_file_and_cpu_agree(family: str, variant: str, tmp_path: Path) -> None:
    model = make(family, variant)
    plan, weights = model.lower()
    assert {s.op for s in plan.steps} <= set(OPS)
    assert set(weights) == set(plan.tensor_names)
    x = rng(0).random((plan.channels, 9, 7), dtype=np.float32)
    with torch.no_grad():
        want = model.double()(torch.from_numpy(x)[None].double())[0].numpy()
    assert want.shape == (plan.channels, 9 * plan.scale, 7 * plan.scale)

    path = tmp_path / f"{variant}.safetensors"
    about: dict[str, Any] = {"name": variant, "arch": family, "licence": "Apache-2.0"}
    modelfile.write(path, plan, weights, config=model.config, recipe={}, psnr={}, **about)
    back = modelfile.read(path)
    assert back.plan.to_dict() == plan.to_dict()
    for name, value in weights.items():
        assert np.array_equal(back.weights[name], value), name
    slow = executors.get("reference").prepare(back.plan, back.weights, precision="fp64").run(x)
    exact = 1e-6 if family in ROUNDED else 1e-9
    assert np.abs(slow - want).max() <= exact * max(1.0, float(np.abs(want).max()))
    assert_matches(load(path).run(x), want)


@pytest.mark.parametrize(("family", "variant"), variants())
def test_the_radius_is_enough(family: str, variant: str) -> None:
    """Pixels further away than the declared radius change nothing but the rounding of Winograd's blocks."""
    plan, weights = make(family, variant).lower()
    session = _core.Session(plan.to_dict(), weights)
    r, s = session.radius, plan.scale
    n = 2 * r + 8
    x = rng(0).random((plan.channels, n, n), dtype=np.float32)
    far = x.copy()
    far[:, :3] = far[:, :, -3:] = 0
    inner = np.s_[:, (3 + r) * s :, : (n - 3 - r) * s]
    out = session.run(x)[inner]
    size = max(1, np.abs(out).max())  # SPAN gives noise values far beyond 1
    assert np.abs(out - session.run(far)[inner]).max() <= TOLERANCE["fp32"] * size
    assert session.run(x).tobytes() != session.run(far).tobytes()


def test_names_follow_the_rule() -> None:
    for family, variant in variants():
        assert variant.startswith(family)
        assert variant.rpartition("_x")[2].isdecimal()
        assert variant.isidentifier()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_is_told_from_all_others(family: str, tmp_path: Path) -> None:
    variant = next(name for other, name in variants() if other == family)
    model = make(family, variant)
    found = recognised(tmp_path / f"net_x{model.scale}.pth", model.state_dict())
    assert (found.arch, found.plan.scale) == (family, model.scale)
    weights = model.lower()[1]
    assert set(found.weights) == set(weights)
    for name, value in weights.items():
        assert np.array_equal(found.weights[name], value), name
