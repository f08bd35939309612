# SPDX-License-Identifier: Apache-2.0
"""The process that runs cases (`graphs.worker`), seen from outside: it may die or hang, and the next case gets another."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from graphs.case import Case

import fastsr

SECONDS = 120
"""a case takes half a second; this is a hang"""


class Died(Exception):
    """The worker died or hung; the message says how."""


class Worker:
    def __init__(
        self, env: dict[str, str] | None = None, seconds: float = SECONDS, package: Path | None = None
    ) -> None:
        """`env`: added to the worker's, such as LD_PRELOAD of a sanitizer. `package`: a folder with another fastsr than this
        process's.
        """
        ours = [package or Path(fastsr.__file__).parents[1], Path(__file__).parents[1]]
        paths = os.pathsep.join([*map(str, ours), *filter(None, sys.path)])
        self.env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths, **(env or {})}
        self.seconds = seconds
        # An editable installation comes before every path, unless site-packages is a path like others.
        self.options = ["-S"] if package else []
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`

    def send(self, case: Case) -> None:
        if self.process is None:
            command = [sys.executable, *self.options, str(Path(__file__).with_name("worker.py"))]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, env=self.env)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(case.to_json().encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` finds it dead

    def receive(self) -> tuple[list[dict[str, Any]], list[np.ndarray | None]]:
        """What `worker.answer` gave: a row for each ISA and precision, and its output."""
        until = time.monotonic() + self.seconds
        head = bytearray()
        while not head.endswith(b"\n"):
            head += self.read(1 << 16, until, line=True)
        rows = json.loads(head)
        outputs: list[np.ndarray | None] = []
        for row in rows:
            if row["shape"] is None:
                outputs.append(None)
                continue
            size = 4 * int(np.prod(row["shape"]))
            body = bytearray()
            while len(body) < size:
                body += self.read(size - len(body), until)
            outputs.append(np.frombuffer(bytes(body), np.float32).reshape(row["shape"]))
        return rows, outputs

    def read(self, most: int, until: float, line: bool = False) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0, until - time.monotonic()))[0]:
            self.process.kill()
            raise Died(f"hangs: no answer in {self.seconds:g} s{self.end()}")
        found = os.read(fd, 1 if line else most)
        if not found:
            raise Died(self.end())
        return found

    def end(self) -> str:
        """How the process ended, and the last it had to say."""
        assert self.process is not None
        code = self.process.wait()
        self.process = None
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")
        self.errors.seek(0)
        self.errors.truncate()
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return f"{name}: {said[-3000:]}"

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.errors.close()
