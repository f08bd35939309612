# SPDX-License-Identifier: Apache-2.0
"""anchored_regression against its float64 reference, on every ISA; ties; and the anchors of real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core, executors, modelfile
from fastsr.catalog import WEIGHTS
from fastsr.ops import resize_bicubic
from fastsr.ops.anchored_regression import compose, features
from fastsr.ops.conv2d import pad
from fastsr.plan import Plan
from fastsr.testing import anchored_weights, assert_matches, rng, run_everywhere, step

torch = pytest.importorskip("torch")
ROLES = {"filters": "filters", "atoms": "atoms", "projections": "projections"}


@given(
    h=st.integers(1, 30),
    w=st.integers(1, 60),
    scale=st.integers(1, 4),
    wide=st.booleans(),
    features=st.integers(1, 37),
    atoms=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_kernel_matches_the_reference(
    h: int, w: int, scale: int, wide: bool, features: int, atoms: int, seed: int
) -> None:
    x = rng(seed).random((1, h, w), dtype=np.float32)
    weights = anchored_weights(scale, 9 if wide else 5, features, atoms, seed)
    steps = [
        step("resize_bicubic", ("lr",), "b", scale=scale),
        step("anchored_regression", ("lr", "b"), "out", ROLES, scale=scale),
    ]
    run_everywhere(x, scale, steps, weights)


@given(h=st.integers(1, 12), w=st.integers(1, 12), scale=st.integers(2, 4), cells=st.sampled_from([3, 5]))
def test_composed_filters_see_what_filters_see_on_the_bicubic_image(h: int, w: int, scale: int, cells: int) -> None:
    """Borders included: filters of the paper's patches at stride s on the upscaled image, symmetrically continued."""
    filters = rng(h).standard_normal((3, cells * scale, cells * scale))
    lr = torch.from_numpy(rng(w).random((1, 1, h, w)))
    upscaled = resize_bicubic.reference(lr, scale=scale)
    expected = torch.nn.functional.conv2d(
        pad(upscaled, (cells // 2 + 1) * scale, "symmetric"), torch.from_numpy(filters)[:, None], stride=scale
    )
    composed = torch.from_numpy(compose(filters, scale)).double()
    assert (features(lr, composed) - expected).abs().max() < 1e-5


def test_ties_go_to_the_lowest_index() -> None:
    # Atoms 3 and 20 are equal, atom 9 is their negative: all score the same; the rest score less.
    weights = anchored_weights(1, 3, 4, 24, 0)
    random = rng(1)
    weights["atoms"][:] = random.standard_normal((24, 4)).astype(np.float32) * 1e-3
    weights["atoms"][3] = weights["atoms"][20] = [1, 0, 0, 0]
    weights["atoms"][9] = [-1, 0, 0, 0]
    weights["filters"][1:] *= 1e-3
    x = random.random((1, 16, 16), dtype=np.float32)
    run_everywhere(x, 1, [step("anchored_regression", ("lr", "lr"), "out", ROLES, scale=1)], weights)


def test_a_flat_image_is_left_alone() -> None:
    """Zero features score zero on every atom: anchor 0, detail 0."""
    x = np.full((1, 20, 20), 0.5, np.float32)
    plan = Plan("y", 1, (step("anchored_regression", ("lr", "lr"), "out", ROLES, scale=1),))
    weights = anchored_weights(1, 5, 8, 16, 0)
    weights["filters"] = weights["filters"] - weights["filters"].mean((1, 2), keepdims=True)
    out = _core.Session(plan.to_dict(), weights).run(x)
    assert_matches(out, x.astype(np.float64))


@pytest.mark.skipif(not (WEIGHTS / "annet_x3.safetensors").exists(), reason="annet_x3 is not in the box")
def test_anchors_of_real_images_agree(shared: Path) -> None:
    """On >= 99.99 % of the patches of Set14 (x3) fp32 picks float64's atom.

    The anchor is made visible: atom a's projection writes (a + 1) d_a . f and d_a . f to two pixels of the patch's
    middle cell, large beside the image, and nothing elsewhere.
    """
    from fastsr.evaluate.protocol import files, load_y

    model = modelfile.read(WEIGHTS / "annet_x3.safetensors")
    plan = Plan("y", 3, (*model.plan.steps[:1], step("anchored_regression", ("lr", "bicubic"), "out", ROLES, scale=3)))
    weights = {name: model.weights[name] for name in plan.tensor_names}
    atoms = weights["atoms"].shape[0]
    weights["projections"] = np.zeros_like(weights["projections"])
    weights["projections"][:, 30] = 1e12 * weights["atoms"]
    weights["projections"][:, 40] = 1e12 * np.arange(1, atoms + 1)[:, None] * weights["atoms"]

    def anchors(out: np.ndarray) -> np.ndarray:
        score, times = out[0, 0::3, 0::3], out[0, 1::3, 1::3]
        return np.rint(times / np.where(score == 0, 1, score))

    reference = executors.get("reference").prepare(plan, weights, precision="fp64")
    sessions = [_core.Session(plan.to_dict(), weights, isa=isa) for isa in _core.isas()]
    wrong, patches = np.zeros(len(sessions), int), 0
    for path in files(shared / "data/test/Set14"):
        y = load_y(path)[:240, :240].astype(np.float32)[None] / 255
        lr = _core.resize_bicubic(y, y.shape[1] // 3, y.shape[2] // 3)
        expected = anchors(reference.run(lr))
        patches += expected.size
        for i, session in enumerate(sessions):
            wrong[i] += int((anchors(session.run(lr)) != expected).sum())
    assert patches > 80_000
    assert (wrong <= patches * 1e-4).all(), dict(zip(_core.isas(), wrong.tolist(), strict=True))


@pytest.mark.parametrize("isa", ["avx512bf16", "amx"])
def test_the_search_with_coarse_scores_has_the_plain_searchs_bits(shared: Path, isa: str) -> None:
    """VNNI and AMX prune by a bound, avx512 scores every atom: the same bytes on images, noise, flat and tiny values."""
    if isa not in _core.isas():
        pytest.skip(f"this CPU has no {isa}")
    from fastsr.evaluate.protocol import files, load_y

    inputs = [load_y(p)[:200, :200].astype(np.float32)[None] / 255 for p in files(shared / "data/test/Set5")]
    random = rng(0).random((1, 120, 130), dtype=np.float32)
    inputs += [random, np.zeros((1, 40, 40), np.float32), random * 1e-35, random * 1e-30, random * 1e30]
    weights = anchored_weights(2, 9, 30, 1000, 5)
    if (WEIGHTS / "annet_x2.safetensors").exists():
        weights = modelfile.read(WEIGHTS / "annet_x2.safetensors").weights
    plan = Plan(
        "y",
        2,
        (
            step("resize_bicubic", ("lr",), "b", scale=2),
            step("anchored_regression", ("lr", "b"), "out", ROLES, scale=2),
        ),
    )
    fast, plain = (_core.Session(plan.to_dict(), weights, isa=i) for i in (isa, "avx512"))
    for x in inputs:
        assert fast.run(x).tobytes() == plain.run(x).tobytes()


@pytest.mark.parametrize("features", [64, 65, 256])
@pytest.mark.parametrize("isa", ["avx512bf16", "amx"])
def test_the_bound_of_coarse_scores_holds_for_many_features(isa: str, features: int) -> None:
    """Clusters of atoms so near each other that rounding ranks them: the plain search's anchors all the same."""
    if isa not in _core.isas():
        pytest.skip(f"this CPU has no {isa}")
    weights = anchored_weights(1, 5, features, 480, features)
    random = rng(features)
    middles = np.repeat(weights["atoms"][:24], 20, axis=0)
    weights["atoms"] = (middles * (1 + 1e-6 * random.standard_normal(middles.shape))).astype(np.float32)
    plan = Plan("y", 1, (step("anchored_regression", ("lr", "lr"), "out", ROLES, scale=1),))
    fast, plain = (_core.Session(plan.to_dict(), weights, isa=i) for i in (isa, "avx512"))
    for x in (random.random((1, 90, 110), dtype=np.float32), random.standard_normal((1, 40, 40)).astype(np.float32)):
        assert fast.run(x).tobytes() == plain.run(x).tobytes()
