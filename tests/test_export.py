# SPDX-License-Identifier: Apache-2.0
"""Exported models give in ONNX Runtime what fastsr gives, whatever the size and the number of images."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from click.testing import CliRunner  # noqa: E402

from fastsr import cli, executors, export, load  # noqa: E402
from fastsr.errors import InputError, ModelError  # noqa: E402
from fastsr.families import FAMILIES  # noqa: E402
from fastsr.modelfile import ModelFile  # noqa: E402
from fastsr.testing import rng  # noqa: E402

SMALL: dict[str, dict[str, Any]] = {
    "srcnn": {"scale": 3},
    "btsrn": {"scale": 4, "width": 8, "bottleneck": 4, "low": 1, "high": 1},
    "crnet_a": {"scale": 2, "n0": 8, "m0": 8, "steps": 3},
    "crnet_b": {"scale": 3, "n0": 8, "m0": 8, "steps": 3},
    "span": {"scale": 2, "width": 8, "blocks": 2},
    "compact": {"scale": 2, "width": 8, "convs": 2},
    "rrdb": {"scale": 4, "width": 8, "grow": 4, "blocks": 1},
    "edsr": {"scale": 3, "width": 8, "blocks": 1},
    "disp": {"scale": 2, "width": 8, "blocks": 1},
    "errn": {"scale": 2, "width": 8, "blocks": 1},
    "fsrcnn": {"scale": 2},
    "espcn": {"scale": 3},
}


def model(family: str) -> ModelFile:
    module, _, kind = FAMILIES[family].partition(":")
    torch.manual_seed(2)
    made = getattr(importlib.import_module(module), kind)(**SMALL[family])
    plan, weights = made.lower()
    meta = {"name": made.name, "arch": family, "licence": "MIT", "domain": plan.domain, "scale": str(plan.scale)}
    return ModelFile(Path("net"), plan, weights, meta)


def test_every_family_but_annet_is_here() -> None:
    assert set(SMALL) == set(FAMILIES) - {"annet"}


@pytest.mark.parametrize("family", SMALL)
def test_onnx_runtime_gives_the_same(family: str) -> None:
    found = model(family)
    raw = export.as_onnx(found)
    assert export.compare(found, raw) < 1e-5
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["licence"] == "MIT"
    run = executors.get("cpu").prepare(found.plan, found.weights).run
    for n, h, w in ((1, 9, 5), (2, 6, 11)):
        x = rng(4).random((n, found.plan.channels, h, w), dtype=np.float32)
        expected = np.stack([run(image) for image in x])
        given = session.run(["out"], {"lr": x})[0]
        assert np.abs(given - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.cli, ["export", "srcnn_915_rgb_x3", "-o", str(tmp_path / "net.onnx")])
    assert result.exit_code == 0, result.output
    assert "ONNX Runtime differs by" in result.output
    assert (tmp_path / "net.onnx").stat().st_size > 1000


def test_what_cannot_be_exported_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'annet_x2' cannot be exported: .*anchored_regression"):
        export.export("annet_x2", tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"end in \.onnx"):
        export.export("srcnn_915_x3", tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = model("compact")
    other = model("compact")
    other.weights["body.0.bias"] = other.weights["body.0.bias"] + 1
    raw = export.as_onnx(other)
    with pytest.raises(ModelError, match="differ by"):
        export.compare(good, raw)


def test_a_foreign_checkpoint_is_exported_as_well(shared: Path, tmp_path: Path) -> None:
    source = shared / "checkpoints/ncnn/realesr-animevideov3-x2.param"
    difference = export.export(source, tmp_path / "net.onnx")
    assert difference is not None
    assert difference < 1e-5
    with np.load(shared / "checkpoints/golden.npz") as given:
        x = given["input"]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert np.abs(session.run(["out"], {"lr": x[None]})[0][0] - load(source).run(x)).max() < 1e-5
