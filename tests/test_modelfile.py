# SPDX-License-Identifier: Apache-2.0
"""Model files: the round trip, and one test per way in which a file can be wrong."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsr import _core, load, modelfile
from fastsr.errors import ModelError, OutputError
from fastsr.testing import script

BROKEN = script(Path(__file__).parent / "broken_models.py")
WRONG, KINDS, parts, join = BROKEN.WRONG, BROKEN.KINDS, BROKEN.parts, BROKEN.join

Write = Callable[..., Path]


def test_the_round_trip(small_model: Write) -> None:
    path = small_model()
    model = modelfile.read(path)
    stored = pytest.importorskip("safetensors.numpy").load_file(path)  # the format's own reader
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


def refusals(path: Path) -> set[str]:
    """What each way to the reader says of a file; one and the same is right."""
    said = set()
    ways: list[Callable[[], object]] = [lambda: modelfile.read(path), lambda: _core.read_model(os.fsencode(path))]
    if path.is_file():
        ways.append(lambda: _core.parse_model(path.read_bytes(), str(path)))
    for way in ways:
        with pytest.raises(ModelError) as e:
            way()
        said.add(str(e.value))
    return said


@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_file_is_refused_with_one_line(way: str, small_model: Write) -> None:
    make, expected = WRONG[way]
    path = make(small_model())
    (message,) = refusals(path)
    assert re.search(expected, message), message
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_called_by_its_name(kind: str, tmp_path: Path) -> None:
    content, expected = KINDS[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    (message,) = refusals(path)
    assert re.search(expected, message), message
    assert message.isprintable()
    assert "claims" not in message
    with pytest.raises(ModelError, match=re.escape(message)):
        modelfile.read_meta(path)


@pytest.mark.parametrize(
    "seed", sorted((Path(__file__).parent / "fuzz/corpus/modelfile").iterdir()), ids=lambda p: p.name
)
def test_the_fuzzers_seeds_are_right_or_refused(seed: Path) -> None:
    """Those that the fuzzers will find something with are added to the folder and stay."""
    if seed.name.startswith("right"):
        assert modelfile.read(seed).plan.scale == 2
    else:
        (message,) = refusals(seed)
        assert message.isprintable()


def test_the_memory_of_weights_lives_as_long_as_one_of_them(small_model: Write) -> None:
    _, weights, _ = _core.parse_model(small_model().read_bytes())
    kept, expected = weights["w1"][0, 3:, 1], weights["w1"][0, 3:, 1].copy()
    assert not kept.flags.writeable
    del weights
    gc.collect()
    for _ in range(8):
        _core.parse_model(small_model().read_bytes())  # would take the freed memory
    assert np.array_equal(kept, expected)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=40))
def test_float16_is_widened_as_numpy_does_it(bits: list[int]) -> None:
    halves = np.array(bits, np.uint16).view(np.float16)
    halves = np.where(np.isfinite(halves), halves, np.float16(0)).astype(np.float16)
    plan = {
        "domain": "y",
        "scale": 1,
        "steps": [
            {"op": "conv2d", "inputs": ["lr"], "out": "m", "weights": {"w": "w", "b": "b"}, "params": {}},
            {"op": "conv2d", "inputs": ["m"], "out": "out", "weights": {"w": "v"}, "params": {}},
        ],
    }
    n = len(halves)
    tensors = {"w": np.zeros((n, 1, 1, 1), np.float16), "b": halves, "v": np.zeros((1, n, 1, 1), np.float16)}
    meta = dict.fromkeys(("name", "arch", "licence"), "x") | dict.fromkeys(("config", "recipe", "psnr", "golden"), "{}")
    meta |= {"fastsr": "1", "scale": "1", "domain": "y", "plan": json.dumps(plan)}
    _, weights, _ = _core.parse_model(modelfile.serialized(tensors, meta))
    assert weights["b"].tobytes() == halves.astype(np.float32).tobytes()


def test_large_files_are_refused_before_they_are_read(tmp_path: Path, small_model: Write) -> None:
    limit = _core.MODEL_LIMITS["file_bytes"]
    path = small_model()
    with open(path, "r+b") as f:
        f.truncate(limit + 1)  # sparse: it takes no room
    with pytest.raises(ModelError, match=f"{limit + 1} bytes, the limit for a model file is {limit}"):
        modelfile.read(path)


def test_float16_counts_as_what_it_becomes(small_model: Write) -> None:
    path = small_model()
    header, data = parts(path)
    count = _core.MODEL_LIMITS["weight_bytes"] // 4
    header["x"] = {"dtype": "F16", "shape": [count], "data_offsets": [len(data), len(data) + 2 * count]}
    join(path, header, data)
    with open(path, "r+b") as f:
        f.truncate(path.stat().st_size + 2 * count)
    with pytest.raises(ModelError, match="bytes as float32, the limit is"):
        modelfile.read(path)


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
