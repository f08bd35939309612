# SPDX-License-Identifier: Apache-2.0
"""Every shipped model, frame to frame, against its torch peers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", cases.models(), ids=lambda case: case.name)
def test_model(time_case: Callable[[cases.Case, str], None], case: cases.Case, engine: str) -> None:
    time_case(case, engine)
