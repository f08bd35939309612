# SPDX-License-Identifier: Apache-2.0
"""The CUDA executor: our CUDA C++ kernels where there are any, then Triton's, then torch's ops on the same device."""

from __future__ import annotations

from fastsr.gpu.gpu import GpuExecutor

EXECUTOR = GpuExecutor("cuda", ("cuda", "triton", "torch"))
