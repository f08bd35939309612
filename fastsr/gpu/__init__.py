# SPDX-License-Identifier: Apache-2.0
"""All that needs torch at import: executors and the engine of NVIDIA GPUs. Nothing outside imports it at import time."""
