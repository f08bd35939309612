# SPDX-License-Identifier: Apache-2.0
"""ncnn's files: the layers that a .param lists, and the numbers of a .bin, which has no order of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from fastsr import _core
from fastsr.convert import check_file
from fastsr.convert.network import Unsupported
from fastsr.errors import ModelError

MAGIC = "7767517"
MAX_TEXT, MAX_LAYERS = _core.MODEL_LIMITS["header_bytes"], _core.MODEL_LIMITS["tensors"]
RAW = (0, 0x0002C056)  # tags of weights in float32
HALF, INT8 = 0x01306B47, 0x000D4B38
ARRAYS = 23300  # keys of arrays are -23300 - key

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Layer:
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, str | tuple[str, ...]]

    def number(self, key: int, default: T) -> T:
        """A parameter of the default's kind."""
        text = self.params.get(key, str(default))
        try:
            value = float(text) if isinstance(text, str) else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 1e30 or (isinstance(default, int) and value != int(value)):
            raise Unsupported(
                f"has parameter {key}={text!r}, expected {'a whole' if isinstance(default, int) else 'a'} number"
            )
        return type(default)(value)

    def array(self, key: int) -> list[float]:
        text = self.params.get(ARRAYS + key, ())
        try:
            values = [float(item) for item in text]
        except ValueError:
            values = [math.nan]
        if not all(math.isfinite(value) for value in values):
            raise Unsupported(f"has parameter {key}={','.join(text)}, expected numbers")
        return values

    def allow(self, *keys: int, **fixed: int) -> None:
        """Raise Unsupported for a parameter that is neither known nor 0, or not what it must be (p4=0)."""
        for key, text in self.params.items():
            known = key in keys or (key > ARRAYS and key - ARRAYS in keys)
            if (
                not known
                and f"p{key}" not in fixed
                and (not isinstance(text, str) or float(self.number(key, 0.0)) != 0)
            ):
                raise Unsupported(f"has parameter {key}={text!r}, which fastsr does not know")
        for name, wanted in fixed.items():
            key = int(name[1:])
            if key in self.params and self.number(key, wanted) != wanted:
                raise Unsupported(f"has parameter {key}={self.params[key]!r}: only {wanted} is known")


class Weights:
    """The .bin, read from its beginning."""

    def __init__(self, path: Path) -> None:
        check_file(path)
        self._data, self._at = path.read_bytes(), 0

    def tagged(self, count: int) -> np.ndarray:  # [count] f32
        """Numbers behind a tag that says of what kind they are."""
        tag = int(self._numbers(1, "<u4")[0])
        if tag == HALF:
            found = self._numbers(count, "<f2")
            self._at += -self._at % 4
            return found.astype(np.float32)
        if tag not in RAW:
            kind = "8-bit integers" if tag == INT8 else f"a table or of kind 0x{tag:08x}"
            raise Unsupported(f"has weights of {kind}: float32 and float16 are known")
        return self.raw(count)

    def raw(self, count: int) -> np.ndarray:  # [count] f32
        return self._numbers(count, "<f4").astype(np.float32)

    def _numbers(self, count: int, kind: str) -> np.ndarray:
        size = np.dtype(kind).itemsize
        left = len(self._data) - self._at
        if not 0 <= count * size <= left:
            raise Unsupported(
                f"wants {count} numbers, but the .bin ends after {max(left, 0) // size}: it is cut, or of another network"
            )
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += count * size
        return found

    def end(self) -> None:
        if self._at < len(self._data):
            raise Unsupported(
                f"the .bin has {len(self._data) - self._at} bytes more than the layers take: it is of another network"
            )


def parse(path: Path) -> list[Layer]:
    """The layers of a .param, whose blobs are made before they are read. Raises ModelError."""
    check_file(path)
    raw = path.read_bytes()[: MAX_TEXT + 1]
    try:
        lines = [line.split() for line in raw.decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if len(raw) > MAX_TEXT:
        raise ModelError(f"{path}: longer than {MAX_TEXT} bytes, the limit for a .param")
    if not lines or lines[0] != [MAGIC]:
        raise ModelError(f"{path}: not ncnn's .param: expected {MAGIC} in its first line (a binary one is not known)")
    counts = lines[1] if len(lines) > 1 else []
    if len(counts) != 2 or not all(re.fullmatch("[0-9]{1,6}", text) for text in counts):
        raise ModelError(f"{path}: line 2 is not the numbers of layers and blobs")
    if int(counts[0]) != len(lines) - 2:
        raise ModelError(f"{path}: lists {len(lines) - 2} layers, but says {counts[0]}: it is cut or was edited")
    if len(lines) - 2 > MAX_LAYERS:
        raise ModelError(f"{path}: has {len(lines) - 2} layers, the limit is {MAX_LAYERS}")
    layers, made = [], set[str]()
    for words in lines[2:]:
        try:
            layer = _layer(words)
        except ValueError:
            raise ModelError(f"{path}: not a layer: {' '.join(words)[:80]}") from None
        for name in layer.inputs:
            if name not in made:
                raise ModelError(
                    f"{path}: layer '{layer.name[:60]}' reads '{name[:60]}', which no layer before it makes"
                )
        for name in layer.outputs:
            if name in made:
                raise ModelError(f"{path}: '{name[:60]}' is made twice")
            made.add(name)
        layers.append(layer)
    if len(made) > int(counts[1]):
        raise ModelError(f"{path}: makes {len(made)} blobs, but says {counts[1]}: it was edited")
    return layers


def _layer(words: list[str]) -> Layer:
    kind, name, ins, outs, *rest = words
    n, m = int(ins), int(outs)
    if not (0 <= n <= len(rest) and 0 <= m <= len(rest) - n) or (m != 1 and kind != "Split"):
        raise ValueError
    params: dict[int, str | tuple[str, ...]] = {}
    for word in rest[n + m :]:
        key, mark, text = word.partition("=")
        number = int(key)
        if not mark or abs(number) > 2 * ARRAYS:
            raise ValueError
        if number <= -ARRAYS:
            count, *items = text.split(",")
            if int(count) != len(items):
                raise ValueError
            params[-number] = tuple(items)
        else:
            params[number] = text
    return Layer(kind, name, tuple(rest[:n]), tuple(rest[n : n + m]), params)
