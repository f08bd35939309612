# SPDX-License-Identifier: Apache-2.0
"""The netpbm files of which Pillow gives 8 bits or nothing: binary PPM of 16 bits, PFM in colour, PAM; and writing them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from fastsr.errors import InputError

HEADER = 4096
TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")


@dataclass
class Deep:
    width: int
    height: int
    channels: int
    dtype: np.dtype[np.generic]
    top: float  # the value of white
    begin: int  # where the samples are
    upwards: bool = False
    notes: list[str] = field(default_factory=list)

    def read(self, file: BinaryIO) -> np.ndarray:  # [H, W, C]
        file.seek(self.begin)
        count = self.width * self.height * self.channels
        data = file.read(count * self.dtype.itemsize)
        if len(data) < count * self.dtype.itemsize:
            raise InputError("cut short")
        array = np.frombuffer(data, self.dtype).reshape(self.height, self.width, self.channels)
        array = array.astype(self.dtype.newbyteorder("="))
        if self.dtype.kind == "u":
            whole = np.iinfo(array.dtype).max
            if array.max() > self.top:
                raise InputError(f"holds a sample of {array.max()} above its largest, {self.top:.0f}")
            if self.top != whole:
                array = np.rint(array * (whole / self.top)).astype(array.dtype)
        return array[::-1] if self.upwards else array


def deep(file: BinaryIO) -> Deep | None:
    """What the header says, where the file is one of these; else None, and the file is as it was."""
    file.seek(0)
    head = file.read(HEADER)
    file.seek(0)
    magic = head[:2]
    if magic == b"P7":
        return _pam(head)
    if magic not in (b"P5", b"P6", b"PF", b"Pf") or not head[2:3].isspace():
        return None
    words, at = [], 2
    for _ in range(3):
        found = TOKEN.match(head, at)
        if found is None:
            return None
        words.append(found[1])
        at = found.end()
    try:
        width, height, top = int(words[0]), int(words[1]), float(words[2])
    except ValueError:
        return None
    channels = 3 if magic in (b"P6", b"PF") else 1
    if magic in (b"PF", b"Pf"):
        dtype = np.dtype("<f4" if top < 0 else ">f4")
        return _checked(Deep(width, height, channels, dtype, 1.0, at + 1, True))
    if not 255 < top < 65536:
        return None
    return _checked(Deep(width, height, channels, np.dtype(">u2"), top, at + 1))


def _pam(head: bytes) -> Deep:
    said = dict(re.findall(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d+)\s*$", head, re.M))
    end = head.find(b"ENDHDR\n")
    if end < 0 or len(said) != 4:
        raise InputError("a PAM whose header is not whole")
    width, height, depth, top = (int(said[k]) for k in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    if depth not in (1, 2, 3, 4) or not 0 < top < 65536:
        raise InputError(f"a PAM of {depth} channels up to {top} is not supported")
    return _checked(Deep(width, height, depth, np.dtype(">u2" if top > 255 else np.uint8), top, end + 7))


def _checked(made: Deep) -> Deep:
    if made.width < 1 or made.height < 1:
        raise InputError(f"an image of {made.width}x{made.height} pixels is empty")
    return made


def header(width: int, height: int, channels: int, bits: int) -> bytes:
    return b"P%d\n%d %d\n%d\n" % (6 if channels == 3 else 5, width, height, 2**bits - 1)
