# SPDX-License-Identifier: Apache-2.0
"""Where a training runs: the device, what fits it, compiled functions, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastsr.errors import DeviceError


def choose(name: str) -> torch.device:
    """ "auto" (cuda when torch sees a GPU, else cpu), "cpu" or "cuda". Raises DeviceError for what is not here."""
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"there is no device {name!r} to train on: choose one of auto, cpu, cuda")
    here = torch.cuda.is_available()
    if name == "cuda" and not here:
        why = "torch sees no GPU" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        raise DeviceError(f"cannot train on cuda: {why}; choose --device cpu")
    if name == "cpu" or not here:
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # a training has few shapes, each run many times
    return torch.device("cuda")


@dataclass(frozen=True)
class Batch:
    """What a step learns from, and how much: it depends on what the device does best."""

    crops: int
    size: int
    """side of a crop"""
    lr: float

    def but(self, crops: int | None, size: int | None, lr: float | None) -> Batch:
        """The same with what is not None."""
        given: dict[str, Any] = {"crops": crops, "size": size, "lr": lr}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def how(self, device: torch.device, crop: int) -> dict[str, Any]:
        """What a model file's recipe says of a step; `crop` is the side that there was."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return {"device": name, "crops_per_step": self.crops, "crop": crop, "lr": self.lr}


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` on `device`, its weights with channels last."""
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def compiled(
    function: Callable[..., Tensor],
    examples: list[tuple[Any, ...]],
    progress: Callable[[str], None],
) -> Callable[..., Tensor]:
    """`function` through torch.compile, in bfloat16; `function` itself, with one line that says why, if that fails.

    Each of `examples`, arguments as training will give them, is run forwards and backwards: what torch.compile cannot
    do shows at the first call and not before, and training is to be timed without it. Weights stay the module's own.
    """
    begin = time.monotonic()
    fast: Callable[..., Tensor] = torch.compile(function, dynamic=False)
    try:
        for arguments in examples:
            with torch.autocast(arguments[0].device.type, dtype=torch.bfloat16):
                out = fast(*arguments)
            out.float().mean().backward()  # type: ignore[no-untyped-call]
    except Exception as e:  # torch.compile raises whatever a compiler may
        reason = next(iter(str(e).splitlines()), "")
        progress(f"training without torch.compile, which failed: {type(e).__name__}: {reason[:160]}")
        return function
    progress(f"compiled in {time.monotonic() - begin:.0f} s")
    return fast


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch has taken of a GPU, or that this process has been in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
