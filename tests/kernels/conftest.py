# SPDX-License-Identifier: Apache-2.0
"""Kernels write into poisoned memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """New tensors are full of NaN, integers of their largest value: what is not written, or read too early, shows."""
    torch = pytest.importorskip("torch")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
