# SPDX-License-Identifier: Apache-2.0
"""A training's log beside its checkpoint: JSON lines, and a plot where matplotlib is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Log = Sequence[dict[str, float]]


def write(checkpoint: Path, log: Log) -> None:
    """<checkpoint>.jsonl and <checkpoint>.png, for its name without suffix, each written beside its place and renamed.

    All of the log each time, so that they tell of what the checkpoint holds, also when a run went back to it.
    """
    _replace(checkpoint.with_suffix(".jsonl"), "".join(json.dumps(row) + "\n" for row in log).encode())
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    import io

    image = io.BytesIO()
    _draw(Figure(figsize=(7, 7), layout="constrained"), checkpoint.stem, log).savefig(image, format="png", dpi=100)
    _replace(checkpoint.with_suffix(".png"), image.getvalue())


def _draw(figure: Any, title: str, log: Log) -> Any:
    """Validation, loss and learning rate over steps, with minutes along the top."""
    rows = figure.subplots(3, 1, sharex=True)
    steps = [row["step"] for row in log]
    for axes, key, label in zip(
        rows, ("psnr", "loss", "rate"), ("validation, dB", "loss", "learning rate"), strict=True
    ):
        axes.plot(steps, [row.get(key, np.nan) for row in log], marker="." if len(log) < 30 else None)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    rows[1].set_yscale("log")
    rows[2].set_xlabel("step")
    rows[2].set_ylim(bottom=0)
    best = max(log, key=lambda row: row["psnr"])
    figure.suptitle(
        f"{title}: {log[-1]['psnr']:.3f} dB after {log[-1]['step']} steps, best {best['psnr']:.3f}", fontsize=10
    )
    minutes = [row["seconds"] / 60 for row in log]
    if len(set(steps)) > 1 and len(set(minutes)) > 1:
        top = rows[0].twiny()
        top.set_xlim(rows[0].get_xlim())
        shown = sorted({round(i) for i in np.linspace(0, len(log) - 1, 6)})
        top.set_xticks([steps[i] for i in shown], [f"{minutes[i]:.3g}" for i in shown])
        top.set_xlabel("minutes")
    return figure


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
