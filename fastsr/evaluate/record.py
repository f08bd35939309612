# SPDX-License-Identifier: Apache-2.0
"""What a model file was measured at, kept in its metadata."""

from __future__ import annotations

from pathlib import Path

from fastsr import modelfile
from fastsr.evaluate.protocol import evaluate
from fastsr.upscaler import load

FIRST = ("Set5", "Set14", "BSD100")
"""sets in the order of every table; others follow by name"""


def record(path: str | Path, data: str | Path) -> dict[str, float]:
    """Measure a model file on `data` as `evaluate` does and write the mean PSNR of each set into it; returns them.

    Raises what `load` and `evaluate` raise.

    >>> record("span_x2.safetensors", "data/test")
    """
    measured = {row["data"]: row["psnr_y"] for row in evaluate(load(path), data)}
    order = [name for name in FIRST if name in measured] + sorted(measured.keys() - set(FIRST))
    psnr = {name: round(measured[name], 3) for name in order if measured[name] is not None}
    modelfile.update(path, psnr=psnr)
    return psnr
