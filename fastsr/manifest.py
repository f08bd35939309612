# SPDX-License-Identifier: Apache-2.0
"""What a batch has done, so that it can go on: a line of JSON for each result, by the hashes of all that made it.

A line is written before its result takes its name, and says what that result's bytes are: after a crash at any moment, a
target that is there and has these bytes is done, and any other is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any

NAME = ".fastsr-resume.jsonl"


def file_hash(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _by_parts(f)


def _by_parts(f: Any) -> str:
    digest = hashlib.sha256()
    while part := f.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def options_hash(options: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


class Manifest:
    """Of one folder of results."""

    def __init__(self, folder: str, made_by: str) -> None:
        """made_by: a hash of the weights and options."""
        self._path, self._made_by = os.path.join(folder, NAME), made_by
        self._known: dict[str, dict[str, str]] = {}
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as f:
            for line in f:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the last one may be torn
                    row = json.loads(line)
                    self._known[row["target"]] = row

    def ours(self, target: str) -> bool:
        """Whether the batch made, or began to make, that file: it may be replaced."""
        return os.path.basename(target) in self._known

    def done(self, source: str, target: str) -> bool:
        """Whether the target is what this input, these weights and options give."""
        row = self._known.get(os.path.basename(target))
        if row is None or row.get("by") != self._made_by or not os.path.isfile(target):
            return False
        return row.get("input") == file_hash(source) and row.get("output") == file_hash(target)

    def add(self, source: str, target: str, temporary: str) -> None:
        """Before `temporary` is renamed."""
        row = {
            "target": os.path.basename(target),
            "source": source,
            "input": file_hash(source),
            "by": self._made_by,
            "output": file_hash(temporary),
        }
        self._known[row["target"]] = row
        line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (b"" if _ends_well(self._path) else b"\n") + line)
            os.fsync(handle)
        finally:
            os.close(handle)


def _ends_well(path: str) -> bool:
    with open(path, "rb") as f:
        if f.seek(0, os.SEEK_END) == 0:
            return True
        f.seek(-1, os.SEEK_END)
        return f.read(1) == b"\n"
