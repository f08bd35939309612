# SPDX-License-Identifier: Apache-2.0
"""Model names: the files in fastsr/weights, and paths to others."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsr import modelfile
from fastsr.errors import ModelError

WEIGHTS = Path(__file__).parent / "weights"

ALIASES = {"srcnn": "srcnn_955"}
"""short name -> the variant it stands for, with or without _x3 behind it"""


@dataclass(frozen=True)
class ModelInfo:
    """A shipped model, as its own file describes it."""

    name: str
    arch: str
    scale: int
    domain: str
    licence: str
    psnr: dict[str, Any]
    """mean PSNR of Y in dB per test set, measured when the file was made"""
    bytes: int
    path: Path


@functools.cache
def models() -> tuple[ModelInfo, ...]:
    """The shipped models, by name.

    >>> [m.name for m in fastsr.models()]
    """
    found = []
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        meta = modelfile.read_meta(path)
        found.append(
            ModelInfo(
                meta["name"],
                meta["arch"],
                int(meta["scale"]),
                meta["domain"],
                meta["licence"],
                json.loads(meta["psnr"]),
                path.stat().st_size,
                path,
            )
        )
    return tuple(found)


def locate(name_or_path: str | Path, scale: int | None = None) -> Path:
    """The file of a shipped model, or the path itself if it is one.

    `scale` chooses among models whose name differs in its `_x` ending only: locate("annet", 3) is annet_x3. Short names
    (ALIASES) stand for a variant: srcnn_x3 is srcnn_955_x3. Raises ModelError with the nearest names when there is no such model.
    """
    text = str(name_or_path)
    stem, mark, ending = text.rpartition("_x")
    if (stem if mark else text) in ALIASES and not os.path.lexists(text):
        text = ALIASES[stem] + mark + ending if mark else ALIASES[text]
    for name in [text] if scale is None else [text, f"{text}_x{scale}"]:
        if name.isidentifier() and os.path.isfile(WEIGHTS / f"{name}.safetensors"):
            return WEIGHTS / f"{name}.safetensors"
    path = Path(text)
    if text and (path.suffix or len(path.parts) > 1 or os.path.lexists(path)):
        if not os.path.exists(path):
            raise ModelError(f"{text}: no such model file")
        return path
    text = text if len(text) <= 80 else f"{text[:80]}..."
    what = f"'{text}'" if scale is None else f"'{text}' for scale {scale}"
    raise ModelError(f"there is no model {what}: {_hint(text, scale)} (`fastsr models` lists them)")


def _hint(text: str, scale: int | None) -> str:
    import difflib

    names = [m.name for m in models()]
    family = [name for name in names if name.rpartition("_x")[0] == text]
    if family:
        return f"give a scale, or one of {', '.join(family)}" if scale is None else f"there are {', '.join(family)}"
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names) or 'none installed'}"
