# SPDX-License-Identifier: Apache-2.0
"""Processes that may hang, fault or vanish: each is killed at its time limit and leaves its whole error text.

A GPU kernel that waits for itself cannot be interrupted, and one that reads beside its memory spoils the process that
launched it. So whatever launches kernels for the first time is a process of its own, and whoever waits for it imports
nothing that could hang with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "gpu"
"""logs of this run; what has to come back is also copied to $OUT"""
RESULTS = ROOT / "bench" / "results"


class JobError(Exception):
    """A process failed; the text is all that it said."""


class Worker:
    """A process that answers words on its standard input with a line of JSON on its standard output.

    A line {"doing": text} is no answer: it says what goes on, for whoever has to kill it.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.began = log, time.monotonic()
        self.doing, self.since, self.paused = "while it started", self.began, 0.0
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                text=True,
                start_new_session=True,  # so that its own children die with it
            )
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        with contextlib.suppress(ValueError):  # closed by `kill`
            for line in self.process.stdout:
                self.lines.put(line)
        self.lines.put(None)

    def say(self, word: str) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):  # it has gone: `answer` says so
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def answer(self, limit: float, what: str) -> dict[str, Any]:
        """What it says next. Raises JobError where it fails, is gone, or says nothing for `limit` seconds."""
        end = time.monotonic() + limit
        while (found := self.poll(what, max(0.01, end - time.monotonic()))) is None:
            if time.monotonic() >= end:
                self.give_up(f"{what}: no answer in {max(0.0, limit):.0f} s")
        return found

    def poll(self, what: str, wait: float = 0.0) -> dict[str, Any] | None:
        """What it says within `wait` seconds, None where that is nothing. Raises JobError where it fails or is gone."""
        try:
            line = self.lines.get(timeout=wait) if wait > 0 else self.lines.get_nowait()
        except queue.Empty:
            return None
        if line is None:
            self.kill()
            code = self.process.returncode
            how = f"by signal {signal.Signals(-code).name}" if code and code < 0 else f"with status {code}"
            raise JobError(f"{what}: the process ended {how}, {self.doing}\n{self._tail()}")
        try:
            found = json.loads(line)
        except ValueError:  # something printed beside the protocol
            return self.poll(what)
        if not isinstance(found, dict):
            return self.poll(what)
        if "doing" in found:
            self.doing, self.since = str(found["doing"]), time.monotonic()
            return self.poll(what)
        if "failed" in found:
            raise JobError(f"{what}: {found['failed']}\n{self._tail()}")
        return found

    def give_up(self, why: str) -> NoReturn:
        """Kill it. Raises JobError, which says what it was doing."""
        self.kill()
        raise JobError(f"{why}, killed {self.doing}\n{self._tail()}")

    def pause(self) -> None:
        """Stop it and its children, so that they leave processor and GPU to others; its clocks stand."""
        self._signal(signal.SIGSTOP)
        self.paused = time.monotonic()

    def resume(self) -> None:
        stood = time.monotonic() - self.paused
        self.began, self.since = self.began + stood, self.since + stood
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-20000:]

    def kill(self) -> None:
        """End it and its children. A process in the driver's hands may take seconds to go: not waited for longer."""
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)


def speak() -> Any:
    """For a worker: the stream for its answers; all other prints of the process go to standard error.

    Also asks the kernel to end this process when its parent is killed.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def write(path: Path, text: str) -> None:
    """Replace a file at once, and its copy in $OUT."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
    if path.parent == RESULTS:  # a folder that git ignores outlives one that is copied anew
        WORK.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, WORK / path.name)
    _to_out(path)


def append(path: Path, text: str) -> None:
    """Add to a file, and bring it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    _to_out(path)


def fault(what: str, text: str) -> None:
    """Keep the whole text of an error, for whoever mends it without the GPU."""
    append(WORK / "faults.txt", f"==== {what}\n{text.strip()[-60000:]}\n\n")


def _to_out(path: Path) -> None:
    if os.environ.get("OUT"):
        with contextlib.suppress(OSError):
            shutil.copyfile(path, Path(os.environ["OUT"]) / path.name)


def gpu() -> str | None:
    """The name of this machine's GPU as fastsr.executors.devices has it, found without CUDA; None where there is none."""
    try:
        command = ["nvidia-smi", "-i", "0", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"\s*(.+?),\s*(\d+)\.(\d+)", said)
    return f"{found[1].lower()} sm_{found[2]}{found[3]}" if found else None


def results_file() -> Path | None:
    """bench/results/<gpu>.json; None without a GPU."""
    name = gpu()
    return RESULTS / f"{name.replace(' ', '-')}.json" if name else None


def read(file: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """The report of an earlier run with the same machine and torch, to go on with; else an empty one.

    What other kernels of ours gave is left out, and what torch gave as it was then written.
    """
    try:
        report: dict[str, Any] = json.loads(file.read_text())
        if all(report[key] == about[key] for key in ("machine", "torch")):
            same = report["kernels"] == about["kernels"]
            fair = report.get("peers") == about["peers"]
            rows = [row for row in report["rows"] if (fair if row["engine"].startswith("torch") else same)]
            smoke = report.get("smoke", []) if same else []
            return {**about, "probes": report.get("probes", {}), "smoke": smoke, "rows": rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {**about, "probes": {}, "smoke": [], "rows": []}


def about() -> dict[str, str]:
    """What results belong to; torch is not imported for it. Raises SystemExit without a GPU."""
    from importlib import metadata

    from fastsr.gpu import tuning

    name = gpu()
    if name is None:
        raise SystemExit("no NVIDIA GPU: nvidia-smi is not there, or names none")
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "none"
    return {"machine": name.replace(" ", "-"), "torch": torch, "kernels": tuning.kernels_hash(), "peers": peers_hash()}


def peers_hash() -> str:
    """Of what the peers are written in."""
    import hashlib

    digest = hashlib.sha256()
    for pattern in ("fastsr/benchmark/*.py", "fastsr/ops/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
