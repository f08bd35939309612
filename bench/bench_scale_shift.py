# SPDX-License-Identifier: Apache-2.0
"""scale_shift against its peers, alone, on RGB."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases


@pytest.mark.parametrize("engine", ENGINES)
def test_scale_shift(time_case: Callable[[cases.Case, str], None], engine: str) -> None:
    time_case(cases.scale_shift(), engine)
