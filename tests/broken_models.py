# SPDX-License-Identifier: Apache-2.0
"""The corpus of wrong model files: what was done to a right one, and what every reader of fastsr says of it.

Python, C++ and the fuzzers share it (tests/fuzz/make_corpus.py).
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def join(path: Path, header: object, data: bytes, size: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


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


def plan(old: bytes, new: bytes) -> Callable[[Path], Path]:
    """A file in whose plan's JSON `old` was replaced."""

    def change(header: dict[str, Any]) -> None:
        about = header["__metadata__"]
        assert old.decode() in about["plan"]
        about["plan"] = about["plan"].replace(old.decode(), new.decode())

    return wrong(change)


def slope(text: str) -> Callable[[Path], Path]:
    return plan(b'"relu"', b'"leaky_relu","slope":' + text.encode())


def poison(value: float) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        header, data = parts(path)
        weights = np.frombuffer(data, np.float32).copy()
        weights[7] = value
        return join(path, header, weights.tobytes())

    return make


def folder(path: Path) -> Path:
    path.unlink()
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    path.unlink()
    os.mkfifo(path)
    return path


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (raw(b""), r"empty \(0 bytes\)"),
    "seven bytes": (raw(bytes(7)), "7 bytes is too short"),
    "cut in the header": (lambda p: raw(p.read_bytes()[:100])(p), "cut"),
    "cut in the data": (lambda p: raw(p.read_bytes()[:-4])(p), "does not fit"),
    "trailing bytes": (lambda p: raw(p.read_bytes() + b"1234")(p), "4 bytes after"),
    "header of 2^63": (raw(struct.pack("<Q", 1 << 63) + b"{}"), "not a model file: it does not begin"),
    "header of 2^64 - 1": (raw(b"\xff" * 8 + b"{}"), "not a model file: it does not begin"),
    "header longer than the file": (raw(struct.pack("<Q", 100) + b"{}"), "claims 100"),
    "header of no bytes": (raw(bytes(16)), "not valid JSON"),
    "header above the limit": (raw(struct.pack("<Q", 2 << 20) + b"{" * (2 << 20)), "claims 2097152"),
    "not JSON": (text(lambda t: b"[" + t), "not valid JSON"),
    "not an object": (text(lambda t: b"[1]"), "not a JSON object"),
    "not UTF-8": (text(lambda t: t.replace(b"w0", b"\xff0")), "not valid JSON"),
    "byte order mark": (text(lambda t: b"\xef\xbb\xbf" + t), "not valid JSON"),
    "nested without end": (text(lambda t: b"[" * 500_000), "not valid JSON"),
    "nested too deeply": (text(lambda t: t[:-1] + b', "x": ' + b"[" * 40 + b"]" * 40 + b"}"), "nested too deeply"),
    "NUL after the header": (text(lambda t: t + b"\0\0"), "not valid JSON"),
    "two values": (text(lambda t: t + b"{}"), "not valid JSON"),
    "a comment": (text(lambda t: t + b"// x"), "not valid JSON"),
    "a comma too many": (text(lambda t: t[:-1] + b",}"), "not valid JSON"),
    "a lone surrogate": (text(lambda t: t.replace(b'"w0"', b'"\\ud800"')), "not valid JSON"),
    "half of a surrogate pair": (text(lambda t: t.replace(b'"w0"', b'"\\udc00x"')), "not valid JSON"),
    "a line break in a string": (text(lambda t: t.replace(b'"w0"', b'"w\n0"')), "not valid JSON"),
    "an integer of 2^63": (text(lambda t: t[:-1] + b', "x": 9223372036854775808}'), "beyond 64 bits"),
    "an integer of 30 digits": (text(lambda t: t[:-1] + b', "x": -' + b"9" * 30 + b"}"), "beyond 64 bits"),
    "a number beyond double": (text(lambda t: t[:-1] + b', "x": 1e999}'), "not valid JSON"),
    "Infinity": (text(lambda t: t[:-1] + b', "x": -Infinity}'), "not valid JSON"),
    "a number with a leading zero": (text(lambda t: t[:-1] + b', "x": 01}'), "not valid JSON"),
    "duplicate key": (text(lambda t: t[:-1] + b', "w0": 1}'), "duplicate key"),
    "NaN in the header": (text(lambda t: t[:-1] + b', "x": NaN}'), "not valid JSON"),
    "a folder": (folder, "not a regular file|Is a directory"),
    "a pipe": (pipe, "not a regular file"),
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
    "other metadata that is no text": (meta(more=3), "'more' is no text"),
    "metadata that is a list": (wrong(lambda h: h.update(__metadata__=[])), "not a fastsr model"),
    "metadata that is no text": (meta(plan=3), "not a fastsr model"),
    "format of the future": (meta(fastsr="2"), "update fastsr"),
    "recipe that is no JSON": (meta(recipe="{"), "'recipe' is not valid JSON"),
    "scale that is no number": (meta(scale="two"), "'scale'"),
    "recipe with NaN": (meta(recipe='{"a": NaN}'), "'recipe' is not valid JSON"),
    "config that is a list": (meta(config="[]"), "'config' is not a JSON object"),
    "scale in other digits": (meta(scale="\u0662"), "'scale'"),
    "another scale": (meta(scale="3"), "plan says otherwise"),
    "another domain": (meta(domain="rgb"), "plan says otherwise"),
    "plan that is no JSON": (meta(plan="{"), "plan is not valid JSON"),
    "plan of another kind": (meta(plan="[]"), "plan"),
    "slope above float32": (slope("1e300"), "parameter 'slope' is beyond the range of float32"),
    "slope beyond int64": (slope("18446744073709551616"), "the plan is not valid JSON.*beyond 64 bits"),
    "slope that is null": (slope("null"), "numbers or strings"),
    "an op of the future": (plan(b'"conv2d"', b'"conv9d"'), "op 'conv9d' is not one of"),
    "a step that does not fit": (plan(b'"lr"', b'"rl"'), "'rl' is not made before it is read"),
    "two tensors by one name": (text(lambda t: t.replace(b'"w1": {', b'"w0": {')), "duplicate key 'w0'"),
    "names that act on a terminal": (plan(b'"lr"', b'"\\u001b[2J\\nx"'), r"value '\\x1b\[2J\\x0ax' is not made"),
    "a name without end": (plan(b'"lr"', b'"' + b"n" * 5000 + b'"'), r"value 'n{200}\.\.\.' is not made"),
    "tensor missing": (wrong(lambda h: h.update(other=h.pop("w0"))), r"missing: \['w0'\], not used: \['other'\]"),
}

KINDS: dict[str, tuple[bytes, str]] = {
    "pickle": (pickle.dumps({"weights": 1}), "pickle"),
    "pickle of protocol 0": (pickle.dumps({"weights": 1}, 0), "pickle"),
    "pth": (b"PK\3\4" + bytes(60), r"ZIP archive \(a PyTorch checkpoint\?\).*fastsr convert"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: x".ljust(124) + b"\0\1IM", "MATLAB.*fastsr convert"),
    "mat of version 7.3": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM", "version 7.3"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.3.0:\x88\x02", "ONNX"),
    "onnx without producer": (b"\x08\x09:\x88\x02" + bytes(30), "ONNX"),
    "frozen graph": (b"\n\x1b\n\x05input\x12\x0bPlaceholder*\x0c" + bytes(20), "TensorFlow graph"),
    "saved model": (b"\x08\x01\x12\xd2\x0e" + bytes(20), "SavedModel"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    "ncnn": (b"7767517\n40 45\nInput in0 0 1 in0\n", "ncnn"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="x" version="11">', "XML"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(20), "GGUF"),
    "html": (b"\n<!DOCTYPE html>\n<html><head><title>404", "HTML page: the download went wrong"),
    "html in small letters": (b"<html lang='en'>" + b"x" * 600, "HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100), "a JPEG image"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8L" + bytes(100), "a WebP image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "gzip that looks small": (b"\x1f\x8b\x08" + bytes(600_000), "gzip"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(250), "tar archive"),
    "numpy": (b"\x93NUMPY\1\0v\0{'descr': '<f4'", "NumPy"),
    "json": (b'{"a": 1}' + b" " * 20, "JSON"),
    "text": (b"hello there, this is no model", "a text file"),
    "noise": (bytes(range(128, 255)), "does not begin as .safetensors do"),
}
"""files of other kinds: their bytes, and what the message says they are"""
