# SPDX-License-Identifier: Apache-2.0
"""Other people's checkpoints -> fastsr model files: one reader a format, each gives a plan and its weights."""

from __future__ import annotations

import importlib
import json
import re
import stat
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import _core, modelfile
from fastsr.errors import DeviceError, InputError, ModelError
from fastsr.modelfile import ModelFile
from fastsr.plan import Plan

FORMATS = {
    "aplus_mat": "the A+ authors' regressors (.mat), beside their dictionary conf_Zeyde_*_finalx<scale>.mat",
    "srcnn_mat": "the SRCNN authors' .mat files",
    "torch_pth": "torch state dicts (.pth, .pt) of any family: SRCNN as commonly written, the authors' SPAN, fastsr's own",
    "ncnn": "ncnn's networks (.param, with the .bin beside it)",
    "state_safetensors": "the same as .safetensors, with `arch`, `config` and `recipe` where fastsr's training wrote it",
}
"""format -> what it is; the reader is fastsr/convert/<format>.py with `read(path, scale) -> Converted`."""


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


def check_file(path: Path) -> None:
    """Raise ModelError unless `path` is a regular file of a size that a checkpoint may have."""
    try:
        info = path.stat()
        with open(path, "rb") if stat.S_ISREG(info.st_mode) else nullcontext():
            pass
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"{path}: not a regular file")
    most = _core.MODEL_LIMITS["file_bytes"]
    if info.st_size > most:
        raise ModelError(f"{path}: {info.st_size} bytes, the limit for a checkpoint is {most}")


def _plain(path: Path, found: Converted) -> Converted:
    """`found` with weights that are dense, float32 and finite, or ModelError."""
    weights = {}
    for name, value in found.weights.items():
        weights[name] = np.ascontiguousarray(value, dtype=np.float32)
        if not np.isfinite(weights[name]).all():
            raise ModelError(f"{path}: '{name}' holds NaN, infinity or numbers that float32 cannot hold")
    return replace(found, weights=weights)


def scale_in(path: Path) -> int | None:
    """The scale in a name like 9-1-5_91img_x3.mat."""
    named = re.search(r"x([2-8])(?!.*x[2-8])", path.stem)
    return int(named[1]) if named else None


def scale_of(path: Path, scale: int | None) -> int:
    """`scale`, or the one in the file's name. Raises InputError when there is neither."""
    found = scale_in(path) if scale is None else scale
    if found is None:
        raise InputError(f"{path} does not say its scale: give it (scale=3, --scale 3)")
    return found


def format_of(path: Path) -> str:
    """Which of FORMATS a file is, by its ending and, for MATLAB files, by the names in it."""
    if path.suffix.lower() in (".pth", ".pt", ".ckpt"):
        return "torch_pth"
    if path.suffix.lower() == ".param":
        return "ncnn"
    if path.suffix.lower() == ".safetensors":
        return "state_safetensors"
    if path.suffix.lower() == ".mat":
        from fastsr.convert import matlab

        return "srcnn_mat" if "weights_conv1" in matlab.load(path) else "aplus_mat"
    raise InputError(
        f"{path}: not a known kind of checkpoint: expected .mat, .pth, .pt, .ckpt, .safetensors or ncnn's .param"
    )


def read(path: str | Path, format: str | None = None, scale: int | None = None) -> Converted:
    """Read a foreign checkpoint; its format is found out unless given. `scale` is for those that do not say it.

    Raises InputError for an unknown `format` or a missing scale, DeviceError when the extra `train` is missing,
    ModelError for a file that is not recognised, with what was expected.

    >>> read("Aplus_x2_1024atoms2048nn_5mil.mat").plan.scale
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise InputError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    try:
        format = format or format_of(path)
        reader = importlib.import_module(f"fastsr.convert.{format}")
        with np.errstate(all="ignore"):  # what is not finite in float32 is refused below
            found: Converted = reader.read(path, scale)
    except ModuleNotFoundError as e:
        raise DeviceError(f"converting {path.name} needs {e.name}: pip install 'fastsr[train]'") from None
    if scale not in (None, found.plan.scale):
        raise InputError(f"{path} is for scale {found.plan.scale}, not {scale}: leave the scale out")
    return _plain(path, found)


def as_model(path: str | Path, scale: int | None = None) -> ModelFile:
    """A foreign checkpoint as a model in memory, for `fastsr.load`. Raises what `read` raises."""
    found = read(path, scale=scale)
    meta = {
        "fastsr": modelfile.FORMAT,
        "name": found.name,
        "arch": found.arch,
        "config": json.dumps(dict(found.config)),
        "scale": str(found.plan.scale),
        "domain": found.plan.domain,
        "plan": found.plan.to_json(),
        "licence": found.licence,
        "recipe": json.dumps(dict(found.recipe)),
        "psnr": "{}",
        "golden": "{}",
    }
    return ModelFile(Path(path), found.plan, found.weights, meta)


def convert(
    path: str | Path,
    out: str | Path,
    *,
    scale: int | None = None,
    format: str | None = None,
    licence: str | None = None,  # where the checkpoint does not say it
) -> Path:
    """Read a foreign checkpoint and write it as a model file; returns the file.

    Raises what `read` and `modelfile.write` raise.

    >>> convert("Aplus_x2_1024atoms2048nn_5mil.mat", "aplus_x2.safetensors")
    """
    found = read(path, format, scale)
    modelfile.write(
        out,
        found.plan,
        found.weights,
        name=found.name,
        arch=found.arch,
        config=found.config,
        licence=licence if licence and found.licence == "unknown" else found.licence,
        recipe=found.recipe,
        psnr={},
    )
    return Path(out)
