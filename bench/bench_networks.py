# SPDX-License-Identifier: Apache-2.0
"""Whole networks against their peers. The sizes of their papers take minutes: FASTSR_BENCH_FULL=1."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases

FULL = os.environ.get("FASTSR_BENCH_FULL") == "1"
SMALL = {
    "srcnn": (160, 90),
    "btsrn": (64, 36),
    "crnet_a": (24, 24),
    "crnet_b": (16, 16),
    "span_x4": (80, 45),
    "span_small_x4": (80, 45),
    "compact": (80, 45),
    "rrdb": (24, 24),
}
CASES = cases.networks()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_network(time_case: Callable[[cases.Case, str], None], case: cases.Case, engine: str) -> None:
    time_case(case if FULL else dataclasses.replace(case, frame=SMALL[case.name.split()[0]]), engine)
