# SPDX-License-Identifier: Apache-2.0
"""libfastsr, spoken to as a C program would: the same bytes as Python's, and the same refusals.

The library is the installed package's, or the one that the variable FASTSR_LIBRARY names.
"""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsr
from fastsr import _core, embedding, modelfile
from fastsr.errors import FastsrError, ModelError
from fastsr.testing import script

BROKEN = script(Path(__file__).parent / "broken_models.py")
RGB, RGBA, GRAY = 3, 4, 1
SAMPLES = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 2, np.dtype(np.float32): 3}
GOLDEN = Path(__file__).parent / "lib/golden.txt"


class Image(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        *((name, c.c_int32) for name in ("format", "sample", "width", "height", "depth", "matrix", "range", "siting")),
        ("planes", c.c_void_p * 4),
        ("strides", c.c_int64 * 4),
    ]


class ContextOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("threads", c.c_int32),
        ("precision", c.c_int32),
        ("memory_limit", c.c_int64),
        ("tile", c.c_int32),
        ("isa", c.c_char_p),
        *((name, c.c_void_p) for name in ("executor", "executor_user", "log", "log_user")),
    ]


P = c.c_void_p
FUNCTIONS: dict[str, list[Any]] = {  # result, then parameters; in the table's order
    "version": [c.c_char_p],
    "message": [c.c_char_p],
    "model_open": [c.c_int32, c.c_char_p, P, c.POINTER(P)],
    "model_from_memory": [c.c_int32, c.c_char_p, c.c_size_t, c.c_char_p, P, c.POINTER(P)],
    "model_from_reader": [c.c_int32, P, c.c_char_p, P, c.POINTER(P)],
    "model_release": [None, P],
    "model_info": [c.c_int32, P, P],
    "context_create": [c.c_int32, P, c.POINTER(ContextOptions), c.POINTER(P)],
    "context_release": [None, P],
    "context_info": [c.c_int32, P, P],
    "upscale": [c.c_int32, P, c.POINTER(Image), c.POINTER(Image), P],
    "cancel": [None, P],
    "memory": [c.c_int32, P, c.POINTER(Image), c.POINTER(c.c_uint64)],
}


class Api(c.Structure):
    _fields_ = [("size", c.c_size_t), *((name, c.CFUNCTYPE(*types)) for name, types in FUNCTIONS.items())]


@pytest.fixture(scope="module")
def api() -> Any:
    try:
        path = os.environ.get("FASTSR_LIBRARY") or embedding.library()
    except FastsrError as e:
        pytest.skip(str(e))
    get = c.CDLL(str(path)).fastsr_get_api
    get.restype, get.argtypes = c.POINTER(Api), [c.c_uint32]
    return get(1).contents


def opened(api: Any, path: Path) -> P:
    model = P()
    assert api.model_open(os.fsencode(path), None, c.byref(model)) == 0, api.message()
    return model


def image_of(array: np.ndarray) -> Image:
    shape = array.shape
    made = Image(c.sizeof(Image), {2: GRAY}.get(array.ndim) or {3: RGB, 4: RGBA}[shape[2]], SAMPLES[array.dtype])
    made.height, made.width = shape[:2]
    made.planes[0] = array.ctypes.data
    return made


def upscaled(api: Any, path: Path, array: np.ndarray, scale: int, isa: str = "") -> np.ndarray:
    """What a C program gets."""
    model, context = opened(api, path), P()
    options = ContextOptions(c.sizeof(ContextOptions), threads=2, isa=isa.encode() or None)
    assert api.context_create(model, c.byref(options), c.byref(context)) == 0, api.message()
    out = np.empty((array.shape[0] * scale, array.shape[1] * scale, *array.shape[2:]), array.dtype)
    status = api.upscale(context, c.byref(image_of(array)), c.byref(image_of(out)), None)
    assert status == 0, api.message()
    api.context_release(context)
    api.model_release(model)
    return out


def noise(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    """As tests/lib/helpers.h makes it."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    values = bytearray()
    for _ in range(count):
        seed = (seed * 1664525 + 1013904223) % 2**32
        values.append(seed >> 24)
    return np.frombuffer(bytes(values), dtype).reshape(shape)


def digest(data: bytes) -> str:
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:x}"


@pytest.mark.parametrize("info", fastsr.models(), ids=lambda m: m.name)
def test_every_shipped_model_gives_pythons_bytes(api: Any, info: fastsr.ModelInfo) -> None:
    array = noise((19, 26, 3), np.uint8, 3)
    assert np.array_equal(upscaled(api, info.path, array, info.scale), fastsr.load(info.path, threads=2).upscale(array))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
@pytest.mark.parametrize("name", ["annet_x3", "srcnn_915_rgb_x3"])
def test_kinds_of_pixels(api: Any, name: str, channels: tuple[int, ...], dtype: Any) -> None:
    up = fastsr.load(name)
    array = noise((17, 21, *channels), np.uint8, 4)
    array = (
        (array / 255).astype(dtype) if dtype == np.float32 else array.astype(dtype) * (257 if dtype == np.uint16 else 1)
    )
    path = next(m.path for m in fastsr.models() if m.name == name)
    assert np.array_equal(upscaled(api, path, array, 3), up.upscale(array))


@pytest.mark.parametrize("line", [line for line in GOLDEN.read_text().splitlines() if " rgb" in line])
def test_the_golden_table(line: str) -> None:
    """The digests that C and C++ are held to (tests/lib/test_golden.cpp) are Python's too."""
    name, kind, expected = line.split()
    shape = (18, 23, 4 if kind == "rgba8" else 3)
    array = noise(shape, np.uint16 if kind == "rgb16" else np.uint8, 7)
    model = modelfile.read(next(m.path for m in fastsr.models() if m.name == name))
    session = _core.Session(model.plan.to_dict(), model.weights, threads=2, isa="baseline")
    out = np.empty((shape[0] * model.plan.scale, shape[1] * model.plan.scale, shape[2]), array.dtype)
    assert session.upscale(_core.Pixels(array), _core.Pixels(out), None)
    assert digest(out.tobytes()) == expected


@pytest.mark.parametrize("kind", BROKEN.WRONG)
def test_wrong_files_are_refused_in_the_same_words(api: Any, kind: str, small_model: Callable[..., Path]) -> None:
    path = BROKEN.WRONG[kind][0](small_model())
    with pytest.raises(ModelError) as error:
        modelfile.read(path)
    model = P()
    assert api.model_open(os.fsencode(path), None, c.byref(model)) == ModelError.exit_code
    assert not model
    assert api.message().decode() == str(error.value)[:1023]


def test_statuses_are_exit_codes() -> None:
    header = Path(__file__).parents[1] / "csrc/include/fastsr/fastsr.h"
    text = header.read_text()
    for error in FastsrError.__subclasses__():
        name = {
            "InputError": "BAD_INPUT",
            "ModelError": "BAD_MODEL",
            "LimitError": "LIMIT",
            "DeviceError": "DEVICE",
        }.get(error.__name__)
        if name:
            assert f"FASTSR_{name} = {error.exit_code}" in text
