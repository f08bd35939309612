# SPDX-License-Identifier: Apache-2.0
"""Other people's checkpoints -> fastsr model files: one reader a format, each gives a plan and its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import modelfile
from fastsr.errors import DeviceError, InputError
from fastsr.plan import Plan

FORMATS = {"aplus_mat": "the A+ authors' regressors (.mat), beside their dictionary conf_Zeyde_*_finalx<scale>.mat"}
"""format -> what it is; the reader is fastsr/convert/<format>.py with `read(path) -> Converted`."""


@dataclass(frozen=True)
class Converted:
    """What a reader found: all that `modelfile.write` needs but the name of the file."""

    plan: Plan
    weights: dict[str, np.ndarray]
    name: str
    arch: str
    config: Mapping[str, Any]
    licence: str
    recipe: Mapping[str, Any] = field(default_factory=dict)


def read(path: str | Path, format: str = "aplus_mat") -> Converted:
    """Read a foreign checkpoint.

    Raises InputError for an unknown `format`, DeviceError when the extra `train` is missing, ModelError for a file
    that is not one of that format.

    >>> read("Aplus_x2_1024atoms2048nn_5mil.mat").plan.scale
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    try:
        reader = importlib.import_module(f"fastsr.convert.{format}")
        found: Converted = reader.read(Path(path))
    except ModuleNotFoundError as e:
        raise DeviceError(f"converting {format} needs {e.name}: pip install 'fastsr[train]'") from None
    return found


def convert(path: str | Path, out: str | Path, *, scale: int | None = None, format: str = "aplus_mat") -> Path:
    """Read a foreign checkpoint and write it as a model file; returns the file.

    `scale`, when given, must be the checkpoint's. Raises what `read` and `modelfile.write` raise.

    >>> convert("Aplus_x2_1024atoms2048nn_5mil.mat", "aplus_x2.safetensors")
    """
    found = read(path, format)
    if scale not in (None, found.plan.scale):
        raise InputError(f"{path} is for scale {found.plan.scale}, not {scale}: leave --scale out")
    modelfile.write(
        out,
        found.plan,
        found.weights,
        name=found.name,
        arch=found.arch,
        config=found.config,
        licence=found.licence,
        recipe=found.recipe,
        psnr={},
    )
    return Path(out)
