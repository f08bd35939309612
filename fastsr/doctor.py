# SPDX-License-Identifier: Apache-2.0
"""What this machine offers: for bug reports and for `fastsr doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

from fastsr import _core, catalog
from fastsr.executors import devices


def examine() -> dict[str, Any]:
    """Versions, ISA, threads, a quick peak probe and whether a GPU driver is there; imports nothing heavy but, where there is a
    driver, torch.

    >>> fastsr.doctor.examine()["isa"]
    """
    versions = {}
    for package in ("fastsr", "numpy", "pillow", "torch", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "isa": _core.isa(),
        "isas": ", ".join(_core.isas()),
        "threads": _core.default_threads(),
        "fma_peak": f"{_core.peak_gflops(0, 0.1):.0f} GFLOP/s fp32",
        "gpu": (devices.missing("cuda") or "usable: device='cuda'") if devices.driver() else "no NVIDIA driver found",
        "models": ", ".join(m.name for m in catalog.models()) or "none",
        **versions,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
