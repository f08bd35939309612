# SPDX-License-Identifier: Apache-2.0
"""torch checkpoints (.pth, .pt): SRCNN as it is commonly written in PyTorch, and our own modules' state dicts.

An outer dict (state_dict, model, net, params, ...) and `module.` prefixes are taken off. The family and its
configuration are read from names and shapes. Only weights are unpickled (`weights_only=True`).
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsr import _core
from fastsr.convert import Converted, check_file, scale_of
from fastsr.errors import ModelError

MAX_BYTES = _core.MODEL_LIMITS["weight_bytes"]
WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "net", "ema", "generator")
EXPECTED = (
    "SRCNN (3 or more Conv2d weights in a row, k x k with odd k, from 1 or 3 channels to as many), "
    "or a state dict of fastsr's own SRCNN or ANNet"
)


def read(path: Path, scale: int | None = None) -> Converted:
    """Read a checkpoint. Raises ModelError, one line, for what is not recognised, with what was expected."""
    state = _state(path)
    if "atoms" in state and "projections" in state:
        return _annet(path, state)
    return _srcnn(path, state, scale)


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
        raise ModelError(f"{path}: holds a {type(found).__name__}, not a state dict: expected {EXPECTED}")
    state = {str(k).removeprefix("module."): v for k, v in found.items() if isinstance(v, torch.Tensor)}
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


def _srcnn(path: Path, state: Mapping[str, Any], scale: int | None) -> Converted:
    from fastsr.families.srcnn import SRCNN

    weights = [(name, w) for name, w in state.items() if w.ndim == 4]
    shapes = [tuple(w.shape) for _, w in weights]
    chained = all(a[0] == b[1] for a, b in itertools.pairwise(shapes))
    square = all(s[2] == s[3] and s[2] % 2 == 1 and s[2] <= 31 for s in shapes)
    ends = bool(shapes) and shapes[0][1] == shapes[-1][0] and shapes[0][1] in (1, 3)
    biases = [state.get(name.removesuffix("weight") + "bias") for name, _ in weights]
    full = all(b is not None and b.shape == (s[0],) for b, s in zip(biases, shapes, strict=True))
    if len(shapes) < 3 or not (chained and square and ends and full) or len(state) != 2 * len(shapes):
        names = ", ".join(f"{k[:60]} {list(v.shape)}" for k, v in list(state.items())[:4])
        raise ModelError(f"{path}: not recognised (it holds {names or 'no tensors'} ...): expected {EXPECTED}")
    own = [name for name, _ in weights] == [f"convs.{i}.weight" for i in range(len(weights))]
    sizes = [s[2] for s in shapes]
    model = SRCNN(
        scale_of(path, scale),
        sizes,
        [s[0] for s in shapes[:-1]],
        shapes[0][1],
        # PyTorch versions pad with zeros; the paper's code, and ours, replicate.
        "replicate" if own else "zero",
    )
    for conv, (_, w), b in zip(model.layers, weights, biases, strict=True):
        conv.weight.data, conv.bias.data = w.float(), b.float()  # type: ignore[union-attr]
    plan, arrays = model.lower()
    rgb = "_rgb" if plan.domain == "rgb" else ""
    name = f"srcnn_{''.join(map(str, sizes))}{rgb}_x{model.scale}"
    return Converted(plan, arrays, name, "srcnn", model.config, "unknown", {"converted_from": path.name})


def _annet(path: Path, state: Mapping[str, Any]) -> Converted:
    from fastsr.families.annet import ANNet

    convs = [state[k] for k in sorted(k for k in state if k.startswith("integration.") and k.endswith("weight"))]
    sizes = tuple(int(w.shape[-1]) for w in convs)
    maps = int(convs[0].shape[0]) if convs else 64
    # All shapes are compared before a model of that size is made.
    channels = [1] + [maps] * (len(sizes) - 1) + [1]
    shapes = [(channels[i + 1], channels[i], k, k) for i, k in enumerate(sizes)]
    count, pixels, n1 = state["projections"].shape if state["projections"].ndim == 3 else (0, 0, 0)
    scale = math.isqrt(pixels // 9)
    fits = (
        2 <= scale <= 8
        and pixels == 9 * scale * scale
        and state["atoms"].shape == (count, n1)
        and [tuple(w.shape) for w in convs] == shapes
        and "filters" in state
        and state["filters"].shape == (n1, 5 * scale, 5 * scale)
    )
    if not fits:
        raise ModelError(f"{path}: looks like ANNet but its tensors do not have the shapes of ANNet's")
    model = ANNet(scale, sizes, maps, count, n1)
    try:
        model.load_state_dict(dict(state))
    except (KeyError, ValueError, RuntimeError, TypeError) as e:
        first = str(e).strip().splitlines()[0]
        raise ModelError(f"{path}: looks like ANNet but does not fit it ({first[:120]})") from None
    plan, weights = model.lower()
    name = f"annet_{''.join(map(str, sizes))}_x{scale}" if sizes != (5, 3) else f"annet_x{scale}"
    return Converted(plan, weights, name, "annet", model.config, "unknown", {"converted_from": path.name})
