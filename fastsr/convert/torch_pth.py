# SPDX-License-Identifier: Apache-2.0
"""torch checkpoints (.pth, .pt): state dicts of any family, by their authors' names or ours.

An outer dict (state_dict, model, net, params, ...) and `module.` prefixes are taken off. The family and its
configuration are read from names and shapes (states.py). Only weights are unpickled (`weights_only=True`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsr import _core
from fastsr.convert import Converted, check_file
from fastsr.convert.states import recognised
from fastsr.errors import ModelError

MAX_BYTES = _core.MODEL_LIMITS["weight_bytes"]
WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "net", "ema", "generator")


def read(path: Path, scale: int | None = None) -> Converted:
    """Read a checkpoint. Raises ModelError, one line, for what is not recognised, with what was expected."""
    return recognised(path, plain(path, _state(path)), scale)


def _state(path: Path) -> dict[str, Any]:
    import torch

    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        unpacked = 0  # an old checkpoint, which is no archive
    if unpacked > MAX_BYTES:
        raise ModelError(f"{path}: unpacks to {unpacked} bytes, the limit is {MAX_BYTES}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from None
    except Exception as e:  # torch.load raises what it likes on a broken or unsafe file
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(f"{path}: refused: not a checkpoint of plain weights ({first[:120]})") from None
    for _ in range(3):
        if isinstance(found, Mapping) and not any(isinstance(v, torch.Tensor) for v in found.values()):
            inner = next((found[k] for k in WRAPPERS if isinstance(found.get(k), Mapping)), None)
            if inner is None:
                break
            found = inner
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: holds a {type(found).__name__}, not a state dict")
    return {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}


def plain(path: Path, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as weights may be, without `module.` before their names. Raises ModelError for others."""
    state = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    total = 0
    for name, tensor in state.items():
        if problem := _problem(tensor):
            raise ModelError(f"{path}: tensor '{name[:60]}' {problem}: expected plain dense numbers")
        total += 4 * tensor.numel()
    if total > MAX_BYTES:
        raise ModelError(f"{path}: its tensors take {total} bytes as float32, the limit is {MAX_BYTES}")
    return state


def _problem(tensor: Any) -> str:
    """Why a tensor cannot be a weight; "" where it can."""
    import torch

    if tensor.is_quantized:
        return "is quantised"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested"
    if tensor.device.type != "cpu":
        return f"has no numbers (device {tensor.device.type})"
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64):
        return f"is of {tensor.dtype}"
    if tensor.numel() == 0:
        return "is empty"
    # A file of a few bytes can claim any size by strides of 0.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of {list(tensor.shape)} repeats its numbers"
    return ""
