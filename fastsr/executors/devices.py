# SPDX-License-Identifier: Apache-2.0
"""Which GPU there is, and what is missing where there is none."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICE = re.compile(r"cuda(:all|:\d+(,\d+)*)?")


def driver() -> bool:
    """Whether this machine shows signs of an NVIDIA driver: looked for before torch, which takes seconds, is imported."""
    if sys.platform == "win32":
        return os.path.exists(os.path.join(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll"))
    return any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"))


def interpreted() -> bool:
    """Whether Triton's kernels run on the CPU in this process."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def each(device: str) -> list[str]:
    """The GPUs that "cuda:0,1" or "cuda:all" names, one by one; any other device itself."""
    kind, _, which = device.partition(":")
    if which == "all":
        import torch

        return [f"{kind}:{index}" for index in range(torch.cuda.device_count())]
    return [f"{kind}:{index}" for index in which.split(",")] if which else [device]


def not_installed() -> str | None:
    """Which package the GPU executors lack."""
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: pip install 'fastsr[gpu]'"
    return None


def missing(device: str) -> str | None:
    """What a GPU executor lacks to run on `device`, and what to do about it; None where it can."""
    if reason := not_installed():
        return reason
    if device == "cpu":
        return None if interpreted() else "Triton kernels run on a CPU only with TRITON_INTERPRET=1, for tests"
    if not DEVICE.fullmatch(device):
        return "is not cpu, cuda, cuda:N, cuda:N,M,... or cuda:all"
    import torch

    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is a build without CUDA: install one with, see https://pytorch.org/get-started"
        )
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no NVIDIA GPU or driver: see what `nvidia-smi` says"
    seen = set()
    for one in each(device):
        index = int(one.partition(":")[2] or 0)
        if index in seen:
            return f"names GPU {index} twice"
        seen.add(index)
        if index >= torch.cuda.device_count():
            return f"there are {torch.cuda.device_count()} GPUs, numbered from 0"
        major, minor = torch.cuda.get_device_capability(index)
        if (major, minor) < (8, 0):
            return f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, 8.0 is needed"
    return None


def name(device: torch.device) -> str:
    """ "nvidia h200 sm_90", or "interpreter" on a CPU."""
    if device.type != "cuda":
        return "interpreter"
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device).lower()} sm_{major}{minor}"
