# SPDX-License-Identifier: Apache-2.0
"""The Triton executor: our Triton kernels, torch's ops on the same device for steps that have none."""

from __future__ import annotations

from fastsr.gpu.gpu import GpuExecutor

EXECUTOR = GpuExecutor("triton", ("triton", "torch"))
