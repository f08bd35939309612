# SPDX-License-Identifier: Apache-2.0
"""Model files: the round trip, and one test per way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsr import load, modelfile
from fastsr.errors import ModelError, OutputError

Write = Callable[..., Path]


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def join(path: Path, header: object, data: bytes, size: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


def test_the_round_trip(small_model: Write) -> None:
    path = small_model()
    model = modelfile.read(path)
    from safetensors.numpy import load_file

    stored = load_file(path)
    assert set(stored) == set(model.weights) == set(model.plan.tensor_names)
    for name, value in stored.items():
        assert np.array_equal(value, model.weights[name])
        assert model.weights[name].dtype == np.float32
        assert model.weights[name].flags.aligned
    assert model.name == "small"
    assert model.json("recipe") == {"seed": 5}
    assert modelfile.read_meta(path) == model.meta


def test_half_precision_tensors_become_float32(small_model: Write, tmp_path: Path) -> None:
    model = modelfile.read(small_model())
    path = tmp_path / "half.safetensors"
    about = {"name": "half", "arch": "test", "config": {}, "licence": "x", "recipe": {}, "psnr": {}}
    modelfile.write(path, model.plan, model.weights, half=["w0"], **about)
    assert parts(path)[0]["w0"]["dtype"] == "F16"
    half = modelfile.read(path)
    assert half.weights["w0"].dtype == np.float32
    assert np.array_equal(half.weights["w0"], model.weights["w0"].astype(np.float16).astype(np.float32))


def test_update_keeps_the_tensors(small_model: Write) -> None:
    path = small_model()
    before = parts(path)[1]
    modelfile.update(path, psnr={"Set5": 30.5})
    assert parts(path)[1] == before
    assert modelfile.read(path).json("psnr") == {"Set5": 30.5}


def test_the_golden_output_finds_changed_weights(small_model: Write) -> None:
    pytest.importorskip("torch")
    path = small_model()
    modelfile.verify(modelfile.read(path))
    header, data = parts(path)
    weights = np.frombuffer(data, np.float32) * np.float32(1.5)
    with pytest.raises(ModelError, match="golden output differs"):
        modelfile.verify(modelfile.read(join(path, header, weights.tobytes())))
    header["__metadata__"]["golden"] = "{}"
    with pytest.raises(ModelError, match="no golden"):
        modelfile.verify(modelfile.read(join(path, header, data)))


@pytest.mark.parametrize(
    "path", sorted(Path(modelfile.__file__).parent.glob("weights/*.safetensors")), ids=lambda p: p.stem
)
def test_shipped_models_give_their_golden_output(path: Path) -> None:
    model = modelfile.read(path)
    assert model.name == path.stem
    modelfile.verify(model)


def wrong(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    """A file whose header was changed."""

    def make(path: Path) -> Path:
        header, data = parts(path)
        change(header)
        return join(path, header, data)

    return make


def entry(**changes: object) -> Callable[[Path], Path]:
    return wrong(lambda h: h["w0"].update(changes))


def meta(**changes: object) -> Callable[[Path], Path]:
    return wrong(lambda h: h["__metadata__"].update(changes))


def raw(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def text(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A file whose header's text was changed."""

    def make(path: Path) -> Path:
        header, data = parts(path)
        return join(path, change(json.dumps(header).encode()), data)

    return make


def poison(value: float) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        header, data = parts(path)
        weights = np.frombuffer(data, np.float32).copy()
        weights[7] = value
        return join(path, header, weights.tobytes())

    return make


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("data.pkl", pickle.dumps({}))
    return path


def folder(path: Path) -> Path:
    path.unlink()
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    path.unlink()
    os.mkfifo(path)
    return path


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (raw(b""), "too short"),
    "seven bytes": (raw(b"1234567"), "too short"),
    "cut in the header": (lambda p: raw(p.read_bytes()[:100])(p), "cut"),
    "cut in the data": (lambda p: raw(p.read_bytes()[:-4])(p), "does not fit"),
    "trailing bytes": (lambda p: raw(p.read_bytes() + b"1234")(p), "4 bytes after"),
    "header of 2^63": (raw(struct.pack("<Q", 1 << 63) + b"{}"), "claims 9223372036854775808"),
    "header of 2^64 - 1": (raw(b"\xff" * 8 + b"{}"), "claims"),
    "header longer than the file": (raw(struct.pack("<Q", 100) + b"{}"), "claims 100"),
    "header of no bytes": (raw(bytes(16)), "not valid JSON"),
    "header above the limit": (raw(struct.pack("<Q", 2 << 20) + b" " * (2 << 20)), "claims"),
    "not JSON": (text(lambda t: b"[" + t), "not valid JSON"),
    "not an object": (text(lambda t: b"[1]"), "not a JSON object"),
    "not UTF-8": (text(lambda t: t.replace(b"w0", b"\xff0")), "not valid JSON"),
    "byte order mark": (text(lambda t: b"\xef\xbb\xbf" + t), "not valid JSON"),
    "nested without end": (text(lambda t: b"[" * 500_000), "not valid JSON"),
    "duplicate key": (text(lambda t: t[:-1] + b', "w0": 1}'), "duplicate key"),
    "NaN in the header": (text(lambda t: t[:-1] + b', "x": NaN}'), "not valid JSON"),
    "a pickle": (raw(pickle.dumps({"weights": 1})), "pickle"),
    "a zip archive": (zipped, "pickle or zip"),
    "a folder": (folder, "not a regular file|Is a directory"),
    "a pipe": (pipe, "not a regular file"),
    "another file": (raw(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a model file"),
    "dtype BF16": (entry(dtype="BF16"), "expected F32 or F16"),
    "dtype that is a list": (entry(dtype=["F32"]), "dtype|malformed"),
    "wrong shape": (entry(shape=[8, 1, 3, 4]), "does not fit"),
    "empty tensor": (entry(shape=[0, 1, 3, 3]), "malformed shape"),
    "shape of fractions": (entry(shape=[8.0, 1, 3, 3]), "malformed shape"),
    "negative shape": (entry(shape=[-8, -1, 3, 3]), "malformed shape"),
    "shape of truth values": (entry(shape=[True, 8, 3, 3]), "malformed shape"),
    "shape that overflows": (entry(shape=[4194305, 4194305, 211106198978564]), "does not fit"),
    "five dimensions": (entry(shape=[8, 1, 3, 3, 1]), "malformed shape"),
    "offsets beyond the end": (entry(data_offsets=[288, 1 << 40]), "does not fit"),
    "reversed offsets": (entry(data_offsets=[288, 0]), "does not fit"),
    "negative offsets": (entry(data_offsets=[-288, 0]), "malformed"),
    "three offsets": (entry(data_offsets=[0, 1, 288]), "malformed"),
    "overlapping tensors": (wrong(lambda h: h["w1"].update(data_offsets=[0, 288])), "overlap|gap"),
    "entry that is no object": (wrong(lambda h: h.update(w0=3)), "malformed"),
    "unknown field": (entry(extra=1), "malformed"),
    "NaN": (poison(float("nan")), "NaN"),
    "infinity": (poison(float("-inf")), "NaN or infinity"),
    "no metadata": (wrong(lambda h: h.pop("__metadata__")), "not a fastsr model"),
    "missing key": (wrong(lambda h: h["__metadata__"].pop("plan")), "not a fastsr model"),
    "metadata that is no text": (meta(plan=3), "not a fastsr model"),
    "format of the future": (meta(fastsr="2"), "update fastsr"),
    "recipe that is no JSON": (meta(recipe="{"), "'recipe' is not valid JSON"),
    "scale that is no number": (meta(scale="two"), "'scale'"),
    "another scale": (meta(scale="3"), "plan says otherwise"),
    "another domain": (meta(domain="rgb"), "plan says otherwise"),
    "plan that is no JSON": (meta(plan="{"), "plan is not valid JSON"),
    "plan of another kind": (meta(plan="[]"), "plan"),
    "tensor missing": (wrong(lambda h: h.update(other=h.pop("w0"))), r"missing: \['w0'\], not used: \['other'\]"),
}


@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_file_is_refused_with_one_line(way: str, small_model: Write) -> None:
    make, message = WRONG[way]
    path = make(small_model())
    with pytest.raises(ModelError, match=message) as e:
        modelfile.read(path)
    assert "\n" not in str(e.value)
    assert str(path) in str(e.value)
    assert len(str(e.value)) < 400


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(canary), "w"))

    path = tmp_path / "model.safetensors"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Bomb(), protocol))
        with pytest.raises(ModelError):
            modelfile.read(path)
    assert not canary.exists()


def test_shapes_that_do_not_fit_the_ops_are_refused_by_load(small_model: Write) -> None:
    path = small_model()
    header, data = parts(path)
    header["w0"]["shape"] = [4, 2, 3, 3]
    with pytest.raises(ModelError, match=r"small\.safetensors: .*expected"):
        load(join(path, header, data))


def test_too_many_tensors(small_model: Write) -> None:
    path = small_model()
    header, data = parts(path)
    header |= {f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for i in range(5000)}
    with pytest.raises(ModelError, match="5002 tensors"):
        modelfile.read(join(path, header, data))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        modelfile.read(tmp_path / "nothing.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        modelfile.read("nul\0name")


def test_write_leaves_nothing_behind_when_it_fails(small_model: Write, tmp_path: Path) -> None:
    model = modelfile.read(small_model())
    about = {"name": "x", "arch": "test", "config": {}, "licence": "x", "recipe": {}, "psnr": {}}
    with pytest.raises(OutputError, match="cannot be written"):
        modelfile.write(tmp_path / "no" / "x.safetensors", model.plan, model.weights, **about)
    blocked = tmp_path / "blocked.safetensors"
    blocked.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        modelfile.write(blocked, model.plan, model.weights, **about)
    bad = dict(model.weights, w0=np.full_like(model.weights["w0"], np.nan))
    with pytest.raises(ModelError, match="not finite"):
        modelfile.write(tmp_path / "y.safetensors", model.plan, bad, **about)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocked.safetensors", "small.safetensors"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, small_model: Write) -> None:
    """Flip, cut or insert bytes anywhere: ModelError, or a file that still means a model; never another exception."""
    path = small_model()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 40))]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        if not content:
            break
    path.write_bytes(bytes(content))
    try:
        model = modelfile.read(path)
    except ModelError as e:
        assert len(str(e).splitlines()) == 1  # noqa: PT017
    else:
        assert all(np.isfinite(w).all() for w in model.weights.values())
