# SPDX-License-Identifier: Apache-2.0
"""Networks that others trained: what they gave in their own code comes out of the engine, whatever the tiles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr import convert, executors  # noqa: E402
from fastsr.convert.states import recognised  # noqa: E402
from fastsr.errors import InputError, ModelError  # noqa: E402
from fastsr.families.compact import Compact  # noqa: E402
from fastsr.families.edsr import EDSR  # noqa: E402
from fastsr.families.fsrcnn import FSRCNN  # noqa: E402
from fastsr.families.rrdb import RRDB  # noqa: E402
from fastsr.testing import halves, rng  # noqa: E402

NTIRE = {"team18_DISP": "disp_x4", "team20_ERRN2": "errn_x4", "team00_SPAN": "span_small_x4"}


@pytest.mark.parametrize("file", NTIRE)
def test_ntires_networks_give_what_they_gave(file: str, shared: Path) -> None:
    found = convert.read(shared / f"checkpoints/ntire_esr/{file}.pth")
    assert found.name == NTIRE[file]
    with np.load(shared / "checkpoints/golden.npz") as given:
        x, expected = given["input"], given[file]
    ways: tuple[dict[str, Any], ...] = ({"threads": 1}, {"threads": 2}, {"threads": 1, "tile": 7})
    out = [executors.get("cpu").prepare(found.plan, found.weights, **way).run(x) for way in ways]
    assert np.abs(out[0] - expected).max() <= 2e-5 * np.ptp(expected)
    assert all(other.tobytes() == out[0].tobytes() for other in out)
    if halves():
        half = executors.get("cpu").prepare(found.plan, found.weights, precision="bf16").run(x)
        assert -10 * np.log10(np.square(half - expected).mean()) >= 50


@pytest.mark.parametrize(
    ("file", "message"),
    [("team00_rlfn", "is RLFN, whose attention .* whole image"), ("team22_spanv2_c2", "SPANV2, which multiplies")],
)
def test_what_plans_cannot_express_is_refused_by_name(file: str, message: str, shared: Path) -> None:
    with pytest.raises(ModelError, match=message):
        convert.read(shared / f"checkpoints/ntire_esr/{file}.pth")


def same(made: Any, model: Any) -> None:
    """Both networks give the same."""
    x = torch.from_numpy(rng(3).random((1, 3, 6, 5), dtype=np.float32))
    with torch.no_grad():
        assert torch.equal(made(x), model(x))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["numbers", "trunk"])
def test_esrgans_old_names_are_known(scale: int, kind: str) -> None:
    model = RRDB(scale, 2, 8, 4)
    n, trunk = len(model.ups), kind == "trunk"
    plain = {"conv_first": "model.0", "conv_body": "model.1.sub.2"}
    plain |= {f"conv_up{i + 1}": f"model.{3 * i + 3}" for i in range(n)}
    plain |= {"conv_hr": f"model.{3 * n + 2}", "conv_last": f"model.{3 * n + 4}"}
    if trunk:
        plain = {
            "conv_body": "trunk_conv",
            "conv_hr": "HRconv",
            **{up: up.replace("conv_up", "upconv") for up in model.ups},
        }
    state = {}
    for name, value in model.state_dict().items():
        layer, _, part = name.rpartition(".")
        if m := re.match(r"body\.(\d)\.rdb(\d)\.(conv\d)", layer):
            layer = f"RRDB_trunk.{m[1]}.RDB{m[2]}.{m[3]}" if trunk else f"model.1.sub.{m[1]}.RDB{m[2]}.{m[3]}.0"
        state[f"{plain.get(layer, layer)}.{part}"] = value
    assert recognised(Path("net.pth"), state).config == model.config
    same(RRDB.from_state(state), model)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsrs_authors_names_are_known(scale: int) -> None:
    model = EDSR(scale, 8, 2)
    state = {"sub_mean.weight": torch.eye(3)[..., None, None], "sub_mean.bias": torch.zeros(3)}
    for name, value in model.state_dict().items():
        name = re.sub(r"body\.(\d)\.conv(\d)", lambda m: f"body.{m[1]}.body.{2 * int(m[2]) - 2}", name)
        for ours, theirs in (("conv_first", "head.0"), ("upsample.", "tail.0."), ("conv_last", "tail.1")):
            name = name.replace(ours, theirs)
        state[name.replace("conv_after_body", "body.2")] = value
    found = recognised(Path("net.pth"), state)
    assert (found.arch, found.config) == ("edsr", model.config)
    same(EDSR.from_state(state), model)


def test_real_esrgan_of_unshuffled_pixels_is_refused() -> None:
    state = RRDB(4, 1, 8, 4).state_dict() | {"conv_first.weight": torch.zeros(8, 12, 3, 3)}
    with pytest.raises(ModelError, match="pixel unshuffle"):
        recognised(Path("RealESRGAN_x2plus.pth"), state)


def test_what_a_file_does_not_say_is_asked() -> None:
    with pytest.raises(InputError, match="does not say its scale"):
        recognised(Path("fsrcnn.pth"), FSRCNN(2).state_dict())
    state = {k: v for k, v in Compact(2, 8, 2).state_dict().items() if v.ndim == 4 or k.endswith("bias")}
    with pytest.raises(ModelError, match="no PReLU"):
        recognised(Path("compact.pth"), state)


def test_what_does_not_fit_is_refused_with_the_tensor() -> None:
    for model, change, message in (
        (Compact(2, 8, 2), {"body.6.weight": torch.zeros(13, 8, 3, 3)}, "13 channels before the shuffle"),
        (Compact(2, 8, 2), {"extra": torch.zeros(1)}, "'extra' is one too many"),
        (RRDB(2, 1, 8, 4), {"body.0.rdb1.conv1x1.weight": torch.zeros(4, 8, 1, 1)}, "one too many"),
        (FSRCNN(3, 8, 4, 1), {"mid_part.2.weight": torch.zeros(4, 4, 5, 5)}, r"expected \[4, 4, 3, 3\]"),
    ):
        with pytest.raises(ModelError, match=message):
            recognised(Path("net_x3.pth"), model.state_dict() | change)
