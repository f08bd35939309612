# SPDX-License-Identifier: Apache-2.0
"""Which candidate of a kernel a stage uses: the kernel's default, or what was measured on this GPU and kept on disk.

A candidate is a configuration of a kernel, of any backend that the stage may run by. It is eligible only after its output
on this device was as near float64 as twice plain torch's at the same precision, on a crop, and at full size agrees with
plain torch's: compilers do miscompile single tile shapes. Results live in <cache>/fastsr/tuning.json under the GPU's name,
Triton's version and a hash of the kernels' sources, so that none of them outlives what it was measured on.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsr.executors import devices
from fastsr.gpu.stages import Candidate, Stage
from fastsr.tolerance import FACTOR, FLOOR

Measure = Callable[[Callable[[], Any]], float]
"""a launch -> its seconds"""
CROP = 72
"""side of what is compared with float64, which takes GPUs long: several tiles, the last ones in part"""
MESSAGE = 2000
"""characters of a failed candidate's error that are kept: a compiler's message says most at its beginning"""


def _nobody(text: str) -> None:
    """Nobody wants to know what goes on."""


watch: Callable[[str], None] = _nobody
"""told which candidate is compiled and compared next: who has to kill this process may say so"""


class Choices:
    """(stage, class of its image) -> candidate. Reads the file once, when first asked on a GPU."""

    def __init__(self, device: torch.device, path: Path | None = None) -> None:
        self.path = path or cache_file()
        self.machine = f"{devices.name(device)} triton {_triton_version()} kernels {kernels_hash()}"
        self.found = _read(self.path).get(self.machine, {}) if path or device.type == "cuda" else {}
        self.asked: set[str] = set()

    def of(self, stage: Stage, shape: Sequence[int]) -> Candidate | None:
        """The tuned candidate for a first input of `shape` [N, C, H, W]; None for the stage's default."""
        kept = self.found.get(row_of(stage, shape)) if self.found else None
        if not isinstance(kept, dict):
            return None
        mine = (
            implementation
            for implementation in stage.implementations
            if implementation.name == kept.get("implementation")
        )
        try:
            return next((c for implementation in mine for c in implementation.candidates if asdict(c) == kept), None)
        except RuntimeError:  # a backend that has gone since
            return None

    def is_new(self, stage: Stage, shape: Sequence[int]) -> bool:
        """Whether nothing is known of such a stage and size, and nobody asked before."""
        row = row_of(stage, shape)
        if row in self.asked or row in self.found:
            return False
        self.asked.add(row)
        return True

    def keep(self, stage: Stage, shape: Sequence[int], candidate: Candidate) -> None:
        """Remember it here and on disk, beside what others wrote there meanwhile."""
        self.found[row_of(stage, shape)] = asdict(candidate)
        everything = _read(self.path)
        everything[self.machine] = everything.get(self.machine, {}) | self.found
        temporary = self.path.parent / f".{self.path.name}-{secrets.token_hex(6)}"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(everything, indent=1, sort_keys=True))
            os.replace(temporary, self.path)
        except OSError:  # a cache that cannot be written is done without
            temporary.unlink(missing_ok=True)


@dataclass
class Trial:
    """A candidate that was compared: `launch` runs it, None where it is not eligible."""

    stage: Stage
    shape: tuple[int, ...]  # of the stage's first input
    candidate: Candidate
    row: dict[str, Any]
    launch: Callable[[], Any] | None = None


def tune(
    stage: Stage, inputs: Sequence[Tensor], choices: Choices, measure: Measure | None, defaults: bool = False
) -> list[dict[str, Any]]:
    """Compare, then time the candidates of a stage on these inputs; keep the fastest eligible one.

    defaults: of each implementation the first only, so that what is chosen is the backend.
    """
    return choose(trials(stage, inputs, defaults), choices, measure)


def trials(stage: Stage, inputs: Sequence[Tensor], defaults: bool = False) -> list[Trial]:
    """The candidates of a stage, compiled and compared; none where there is nothing to choose. Times nothing."""
    if len(stage.implementations) == 1 and (defaults or len(stage.candidates()) == 1):
        return []
    small = _crop(inputs)
    watch(f"computing {stage.key} in fp64")
    truth = stage.plain(small, torch.float64)
    precision, dtype = stage.precision, stage.dtype
    size = max(1.0, float(truth.abs().max()))
    limit = FACTOR * float((stage.plain(small, dtype).double() - truth).abs().max()) + FLOOR[precision] * size
    try:
        whole = stage.plain(inputs, dtype)
    except RuntimeError:  # torch lacks the memory where our kernels need not
        whole = None
    shape, found = tuple(inputs[0].shape), []
    for implementation in stage.implementations:
        try:
            candidates = implementation.candidates[:1] if defaults else implementation.candidates
        except RuntimeError as e:  # another backend's kernel that cannot be compiled
            failed = {
                "implementation": implementation.name,
                "config": None,
                "seconds": None,
                "failed": f"{type(e).__name__}: {e}",
            }
            found.append(Trial(stage, shape, Candidate(implementation.name), {"stage": stage.key, **failed}))
            continue
        for candidate in candidates:
            row: dict[str, Any] = {"stage": stage.key, **asdict(candidate), "limit": limit, "seconds": None}
            trial = Trial(stage, shape, candidate, row)
            found.append(trial)
            if candidate.implementation == "torch":  # what the others are compared with
                trial.launch = lambda candidate=candidate: stage.run(inputs, candidate)
                continue
            watch(f"comparing {stage.key} by {candidate}")
            try:
                row["error"] = float((stage.run(small, candidate).double() - truth).abs().max())
                if not row["error"] <= limit:  # nor NaN
                    continue
                out = stage.run(inputs, candidate)
                # Not the largest: an argmax may fall otherwise here and there.
                row["apart"] = 0.0 if whole is None else float((out - whole).float().square().mean().sqrt())
                if row["apart"] <= limit:
                    trial.launch = lambda candidate=candidate: stage.run(inputs, candidate)
            except Exception as e:  # too much shared memory, a compiler's failure: not a candidate here
                row["failed"] = f"{type(e).__name__}: {e}"[:MESSAGE]
    return found


def choose(compared: Sequence[Trial], choices: Choices, measure: Measure | None) -> list[dict[str, Any]]:
    """Time what is eligible of one stage's trials; keep the fastest. Returns their rows."""
    best: tuple[float, Trial] | None = None
    for trial in compared:
        if trial.launch is None:
            continue
        try:
            seconds = (measure or _seconds)(trial.launch)
        except Exception as e:
            trial.row["failed"] = f"{type(e).__name__}: {e}"[:MESSAGE]
            continue
        trial.row["seconds"] = seconds
        if best is None or seconds < best[0]:
            best = (seconds, trial)
    if best is not None:
        choices.keep(best[1].stage, best[1].shape, best[1].candidate)
    return [trial.row for trial in compared]


def _crop(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The corner of one image, of every input the same."""
    h, w = inputs[0].shape[2:]
    # An input may have several times the first one's pixels.
    return [x[:1, :, : CROP * (x.shape[2] // h), : CROP * (x.shape[3] // w)] for x in inputs]


def kernels_hash() -> str:
    """Of the sources of all GPU kernels."""
    import importlib

    kernels = importlib.import_module("fastsr.kernels")
    digest = hashlib.sha256()
    for folder in kernels.__path__:
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _seconds(launch: Callable[[], Any]) -> float:
    """The median of a launch's time on the GPU."""
    from triton.testing import do_bench

    return 1e-3 * float(do_bench(launch, warmup=10, rep=50, return_mode="median"))


def row_of(stage: Stage, shape: Sequence[int]) -> str:
    """Stages of one key and precision share results, images of one power of four of pixels do."""
    n, _, h, w = shape
    return f"{stage.key} {stage.precision} 4^{((n * h * w).bit_length() + 1) // 2}"


def cache_file() -> Path:
    """tuning.json in the user's cache folder."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData/Local")
    else:
        root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "fastsr" / "tuning.json"


def _read(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or broken."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) and all(isinstance(v, dict) for v in data.values()) else {}


def _triton_version() -> str:
    import triton

    return str(triton.__version__)
