# SPDX-License-Identifier: Apache-2.0
"""Reading MATLAB files of version 5 (`save -v6`, `-v7`): what the readers of authors' releases share.

Every size is checked before it is used. SciPy's reader is not asked: a wrong byte can crash it, and the process with it.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.errors import ModelError

MAX_BYTES = _core.MODEL_LIMITS["file_bytes"]
"""of the file, and of all that it unpacks to"""
MAX_ARRAYS = 1 << 16
MAX_DEPTH = 16
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""how numbers are stored: type of an element -> numpy's"""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""what an array is of, which may be wider than how it is stored"""
OTHERS = {3: "an object", 4: "text", 5: "a sparse matrix", 16: "a function", 17: "an object"}


@dataclass(frozen=True)
class Other:
    """A value that holds no plain numbers."""

    what: str


Value = Any
"""numpy array of real numbers; of objects (a cell array); dict (a struct); Other"""


class _Broken(Exception):
    """The bytes are no MATLAB file; says where."""


def load(path: Path) -> dict[str, Value]:
    """The variables of a .mat file. Raises ModelError, one line."""
    from fastsr.convert import check_file

    check_file(path)
    raw = path.read_bytes()
    if raw.startswith(b"MATLAB 7.3"):
        raise ModelError(f"{path}: a MATLAB file of version 7.3: save it with -v7")
    if len(raw) < 128 or raw[126:128] not in (b"IM", b"MI"):
        raise ModelError(f"{path}: not a MATLAB file of version 5")
    reader = _Reader("<" if raw[126:128] == b"IM" else ">")
    try:
        return reader.variables(memoryview(raw)[128:])
    except (_Broken, struct.error, zlib.error, ValueError) as e:
        raise ModelError(f"{path}: not a whole MATLAB file ({e})") from None


def field(path: Path, data: dict[str, Value], name: str, whose: str) -> Value:
    """One variable. Raises ModelError when it is missing."""
    if name not in data:
        raise ModelError(f"{path}: holds no '{name}': not {whose} file")
    return data[name]


def numbers(path: Path, data: dict[str, Value], name: str, whose: str) -> np.ndarray:
    """One variable, which must be a full array of real numbers. Raises ModelError."""
    found = field(path, data, name, whose)
    if not isinstance(found, np.ndarray) or found.dtype == object or found.size == 0:
        what = found.what if isinstance(found, Other) else "a struct" if isinstance(found, dict) else "a cell array"
        what = "empty" if isinstance(found, np.ndarray) and found.size == 0 else what
        raise ModelError(f"{path}: '{name}' is {what}: expected numbers")
    return found


class _Reader:
    """Elements of one file: a tag (type, size), then so many bytes, filled up to 8."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.room = MAX_BYTES
        self.arrays = 0

    def variables(self, data: memoryview) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while len(data) >= 8:
            kind, content, data = self.element(data)
            if kind == COMPRESSED:
                kind, content, _ = self.element(memoryview(self.unpack(content)))
            if kind == MATRIX:
                name, value = self.matrix(content, 0)
                found[name] = value
        return found

    def take(self, size: int) -> None:
        """So many bytes will be made."""
        self.room -= size
        if self.room < 0:
            raise _Broken(f"it unpacks to more than {MAX_BYTES} bytes")

    def unpack(self, content: memoryview) -> bytes:
        unpacker = zlib.decompressobj()
        out = unpacker.decompress(content, max(self.room, 1))
        self.take(len(out) + bool(unpacker.unconsumed_tail))
        return out

    def element(self, data: memoryview) -> tuple[int, memoryview, memoryview]:
        """Type and content of the first element of `data`, and what follows it."""
        kind, size = struct.unpack_from(f"{self.order}II", data)
        begin, end = 8, 8 + size
        if kind >> 16:  # up to 4 bytes lie in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            begin, end = 4, 4 + size
            if size > 4:
                raise _Broken("a small element of more than 4 bytes")
        if end > len(data):
            raise _Broken(f"an element of {size} bytes where {len(data) - begin} are left")
        after = end if kind == COMPRESSED else -(-end // 8) * 8
        return kind, data[begin:end], data[after:]

    def ints(self, data: memoryview, what: str) -> tuple[list[int], memoryview]:
        """Integers of 32 bits."""
        kind, content, rest = self.element(data)
        if kind not in (5, 6) or len(content) % 4 or len(content) > 4 * 32:
            raise _Broken(f"{what} of type {kind}, {len(content)} bytes")
        return list(struct.unpack(f"{self.order}{len(content) // 4}{'i' if kind == 5 else 'I'}", content)), rest

    def matrix(self, data: memoryview, depth: int) -> tuple[str, Value]:
        self.arrays += 1
        if self.arrays > MAX_ARRAYS or depth > MAX_DEPTH:
            raise _Broken(f"more than {MAX_ARRAYS} arrays, or nested more than {MAX_DEPTH} deep")
        if not data:
            return "", np.zeros((0, 0))
        flags, data = self.ints(data, "flags")
        if len(flags) != 2:
            raise _Broken(f"{len(flags)} flags")
        shape, data = self.ints(data, "dimensions")
        _, text, data = self.element(data)
        name = bytes(text).decode("latin-1")
        of, is_complex = flags[0] & 0xFF, bool(flags[0] & 0x800)
        if len(shape) < 2 or min(shape) < 0:
            raise _Broken(f"dimensions {shape}")
        count = math.prod(shape)
        if of in CLASSES:
            return name, Other("complex") if is_complex else self.real(data, CLASSES[of], shape, count)
        if of == 1:
            return name, self.cells(data, shape, count, depth)
        if of == 2:
            return name, self.struct(data, count, depth)
        if of in OTHERS:
            return name, Other(OTHERS[of])
        raise _Broken(f"an array of class {of}")

    def real(self, data: memoryview, dtype: str, shape: list[int], count: int) -> np.ndarray:
        kind, content, _ = self.element(data) if count else (9, data[:0], data)
        if kind not in NUMBERS or len(content) != count * np.dtype(NUMBERS[kind]).itemsize:
            raise _Broken(f"{len(content)} bytes of type {kind} for an array of {shape}")
        self.take(count * np.dtype(dtype).itemsize)
        stored = np.frombuffer(content, self.order + NUMBERS[kind])
        return stored.astype(dtype).reshape(shape, order="F")

    def cells(self, data: memoryview, shape: list[int], count: int, depth: int) -> np.ndarray:
        if count > MAX_ARRAYS:
            raise _Broken(f"{count} cells")
        found = np.empty(count, dtype=object)
        for i in range(count):
            found[i], data = self.part(data, depth)
        return found.reshape(shape, order="F")

    def struct(self, data: memoryview, count: int, depth: int) -> Value:
        lengths, data = self.ints(data, "the length of a field's name")
        _, text, data = self.element(data)
        size = lengths[0] if len(lengths) == 1 else 0
        if not 0 < size <= 64 or len(text) % size:
            raise _Broken("field names that are malformed")
        names = [bytes(text[i : i + size]).split(b"\0")[0].decode("latin-1") for i in range(0, len(text), size)]
        if count != 1:
            return Other("an array of structs")
        found: dict[str, Value] = {}
        for name in names:
            found[name], data = self.part(data, depth)
        return found

    def part(self, data: memoryview, depth: int) -> tuple[Value, memoryview]:
        kind, content, rest = self.element(data)
        if kind != MATRIX:
            raise _Broken(f"an element of type {kind} where an array is due")
        return self.matrix(content, depth + 1)[1], rest
