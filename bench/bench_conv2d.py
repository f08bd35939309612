# SPDX-License-Identifier: Apache-2.0
"""conv2d against its torch peers, as annet uses it: a narrow chain at HR size."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases

SIZES = ((5, 3), (9, 5, 5, 3)) if os.environ.get("FASTSR_BENCH_FULL") == "1" else ((5, 3),)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes)))
def test_conv2d(time_case: Callable[[cases.Case, str], None], sizes: tuple[int, ...], engine: str) -> None:
    time_case(cases.conv2d(sizes), engine)
