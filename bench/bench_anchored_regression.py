# SPDX-License-Identifier: Apache-2.0
"""anchored_regression against its torch peers."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases

SCALES = (2, 3, 4) if os.environ.get("FASTSR_BENCH_FULL") == "1" else (3,)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", SCALES)
def test_anchored_regression(time_case: Callable[[cases.Case, str], None], scale: int, engine: str) -> None:
    time_case(cases.anchored_regression(scale), engine)
