# SPDX-License-Identifier: Apache-2.0
"""How far a batch is: a line on a terminal, or lines of JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import Protocol, TextIO

from fastsr.errors import printable

EVERY = 0.2
"""seconds between two states of the line"""


class Shown(Protocol):
    """What a batch tells about itself."""

    def begin(self, source: str) -> None: ...

    def part(self, source: str, share: float) -> None:
        """Of a picture that goes by strips, or of an animation."""
        ...

    def end(self, source: str, target: str, error: str | None = None) -> None: ...

    def clear(self) -> None:
        """Before another line is written there."""
        ...


class Progress:
    """Says nothing where nobody reads."""

    def __init__(self, total: int, how: str, stream: TextIO | None = None) -> None:
        """how: "auto" (a line on a terminal), "json", or "none"."""
        self._out = sys.stderr if stream is None else stream
        self._json = how == "json"
        self._line = how == "auto" and self._out is not None and self._out.isatty()
        self._total, self._done, self._begin, self._shown = total, 0, time.monotonic(), 0.0
        self._wide = 0

    def begin(self, source: str) -> None:
        if self._json:
            self._say({"event": "begin", "input": source})

    def part(self, source: str, share: float) -> None:
        """Of a picture that goes by strips, or of an animation."""
        if self._json:
            self._say({"event": "part", "input": source, "share": round(share, 4)})
        self._show(source, self._done + share)

    def end(self, source: str, target: str, error: str | None = None) -> None:
        self._done += 1
        if self._json:
            row = {"event": "error", "error": error} if error else {"event": "done", "output": target}
            self._say({**row, "input": source, "done": self._done, "total": self._total, "eta": self._eta(self._done)})
        self._show(source, self._done)

    def _eta(self, done: float) -> float | None:
        past = time.monotonic() - self._begin
        return round(past / done * (self._total - done), 1) if done else None

    def _say(self, row: dict[str, object]) -> None:
        if self._out is not None:
            print(json.dumps(row), file=self._out, flush=True)

    def _show(self, source: str, done: float) -> None:
        now = time.monotonic()
        if not self._line or (now - self._shown < EVERY and done < self._total):
            return
        self._shown, eta = now, self._eta(done)
        left = "" if eta is None else f", {eta // 60:.0f}:{eta % 60:02.0f} left"
        line = printable(f"{done:.3g}/{self._total} {100 * done / self._total:.0f} %{left}  {source}")[:100]
        self._out.write("\r" + line.ljust(self._wide))
        self._out.flush()
        self._wide = len(line)

    def clear(self) -> None:
        """Before another line is written there."""
        if self._line and self._wide:
            self._out.write("\r" + " " * self._wide + "\r")
            self._out.flush()
            self._wide = 0
