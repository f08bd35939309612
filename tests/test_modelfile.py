# SPDX-License-Identifier: Apache-2.0
"""Model files: what is written is read back, and every way a file can be wrong is refused with one line."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastsr
from fastsr import modelfile
from fastsr.catalog import models
from fastsr.errors import FastsrError, ModelError, OutputError

pytest.importorskip("torch")
Maker = Callable[..., Path]


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def rewrite(path: Path, header: dict[str, Any] | str | bytes, data: bytes, size: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)
    return path


def test_round_trip(small_model: Maker) -> None:
    path = small_model("model", scale=3)
    model = modelfile.read(path)
    assert model.name == "model"
    assert model.plan.scale == 3
    assert [s.op for s in model.plan.steps] == ["resize_bicubic", "conv2d", "conv2d"]
    assert model.weights["w0"].shape == (8, 1, 3, 3)
    assert model.json("recipe") == {"seed": 5}
    modelfile.verify(model, "cpu")
    modelfile.verify(model, "reference")


def test_half_storage_is_widened(tmp_path: Path, small_model: Maker) -> None:
    model = modelfile.read(small_model())
    path = tmp_path / "half.safetensors"
    modelfile.write(
        path,
        model.plan,
        model.weights,
        name="half",
        arch="test",
        config={},
        licence="x",
        recipe={},
        psnr={},
        half=("w0",),
    )
    read = modelfile.read(path)
    assert read.weights["w0"].dtype == np.float32
    assert np.array_equal(read.weights["w0"], model.weights["w0"].astype(np.float16).astype(np.float32))


def test_verify_sees_a_changed_weight(small_model: Maker) -> None:
    path = small_model()
    header, data = parts(path)
    changed = bytearray(data)
    changed[-4:] = np.float32(0.9).tobytes()
    with pytest.raises(ModelError, match="golden"):
        modelfile.verify(modelfile.read(rewrite(path, header, bytes(changed))))


def test_update_keeps_the_tensors(small_model: Maker) -> None:
    path = small_model()
    before = parts(path)[1]
    modelfile.update(path, psnr={"Set5": 30.0})
    assert parts(path)[1] == before
    assert modelfile.read(path).json("psnr") == {"Set5": 30.0}


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    def apply(path: Path) -> Path:
        header, data = parts(path)
        change(header)
        return rewrite(path, header, data)

    return apply


def plan_edit(**changes: Any) -> Callable[[Path], Path]:
    def change(header: dict[str, Any]) -> None:
        plan = json.loads(header["__metadata__"]["plan"]) | changes
        header["__metadata__"]["plan"] = json.dumps(plan)

    return edit(change)


def nan_weight(path: Path) -> Path:
    header, data = parts(path)
    return rewrite(path, header, np.float32(np.nan).tobytes() + data[4:])


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "too short"),
    "seven bytes": (lambda p: p.write_bytes(b"1234567"), "too short"),
    "huge header": (lambda p: p.write_bytes((2**63).to_bytes(8, "little") + b"{}"), "claims"),
    "header past end": (lambda p: rewrite(p, *parts(p), size=100_000), "claims"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-10]), "does not fit"),
    "trailing": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "after the last"),
    "not json": (lambda p: rewrite(p, "{nope", b""), "JSON"),
    "deep json": (lambda p: rewrite(p, "[" * 100_000, b""), "JSON"),
    "not utf-8": (lambda p: rewrite(p, b'{"\xff": 1}', b""), "JSON"),
    "duplicate keys": (lambda p: rewrite(p, '{"a": 1, "a": 2}', b""), "duplicate"),
    "nan literal": (lambda p: rewrite(p, '{"a": NaN}', b""), "JSON"),
    "list": (lambda p: rewrite(p, "[1]", b""), "object"),
    "no metadata": (edit(lambda h: h.pop("__metadata__")), "not a fastsr model"),
    "future format": (edit(lambda h: h["__metadata__"].update(fastsr="9")), "update fastsr"),
    "gap": (edit(lambda h: h["w0"].update(data_offsets=[4, 4 + 4 * 72])), "overlap|gap|fit"),
    "reversed": (edit(lambda h: h["w0"].update(data_offsets=[288, 0])), "fit"),
    "negative": (edit(lambda h: h["w0"].update(data_offsets=[-4, 284])), "malformed"),
    "overflow": (edit(lambda h: h["w0"].update(shape=[4194305, 4194305, 211106198978564])), "fit"),
    "dtype": (edit(lambda h: h["w0"].update(dtype="I64")), "F32 or F16"),
    "shape type": (edit(lambda h: h["w0"].update(shape="8")), "malformed"),
    "entry": (edit(lambda h: h.update(w0=3)), "malformed"),
    "missing tensor": (edit(lambda h: h.update(w9=h.pop("w0"))), "missing"),
    "wrong shape": (edit(lambda h: h["w0"].update(shape=[1, 8, 3, 3])), "expected"),
    "nan weight": (nan_weight, "NaN"),
    "bad plan": (edit(lambda h: h["__metadata__"].update(plan="{}")), "plan"),
    "plan domain": (plan_edit(domain="cmyk"), "domain"),
    "plan scale": (plan_edit(scale="3"), "scale"),
    "plan steps": (plan_edit(steps=[]), "steps"),
    "lying scale": (edit(lambda h: h["__metadata__"].update(scale="7")), "otherwise"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"w": 1}, protocol=4)), "pickle"),
    "zip": (lambda p: p.write_bytes(b"PK\x03\x04" + b"0" * 100), "pickle or zip"),
}


@pytest.mark.parametrize("way", WRONG)
def test_wrong_files_are_refused(small_model: Maker, way: str) -> None:
    path = small_model()
    spoil, message = WRONG[way]
    spoil(path)
    with pytest.raises(ModelError, match=message) as e:
        fastsr.load(path)
    assert "\n" not in str(e.value)


@given(where=st.integers(0, 5000), value=st.integers(0, 255))
def test_a_flipped_byte_never_crashes(tmp_path_factory: pytest.TempPathFactory, where: int, value: int) -> None:
    source = models()[0].path if models() else None
    if source is None:
        pytest.skip("no models in the box")
    raw = bytearray(source.read_bytes())
    raw[where % min(len(raw), 4000)] = value
    path = tmp_path_factory.mktemp("flip") / "m.safetensors"
    path.write_bytes(raw)
    with contextlib.suppress(FastsrError):
        fastsr.load(path)


def test_not_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        modelfile.read(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.safetensors")
        with pytest.raises(ModelError, match="regular"):
            modelfile.read(tmp_path / "fifo.safetensors")


def test_writing_where_one_cannot(small_model: Maker) -> None:
    model = modelfile.read(small_model())
    with pytest.raises(OutputError):
        modelfile.write(
            "/no/such/folder/x.safetensors",
            model.plan,
            model.weights,
            name="x",
            arch="",
            config={},
            licence="",
            recipe={},
            psnr={},
        )


@pytest.mark.parametrize("info", models(), ids=lambda m: m.name)
def test_shipped_models_verify(info: fastsr.ModelInfo) -> None:
    model = modelfile.read(info.path)
    modelfile.verify(model, "cpu")
    assert info.bytes < 25_000_000
    assert model.meta["licence"] == "Apache-2.0"
    assert {"Set5", "Set14"} <= set(info.psnr)
    recipe = model.json("recipe")
    assert "seed" in recipe


def test_shipped_models_fit_the_box() -> None:
    assert sum(m.bytes for m in models()) < 60_000_000
