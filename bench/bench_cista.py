# SPDX-License-Identifier: Apache-2.0
"""cista against its peers, as crnet_a uses it: three recursions of 256 codes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases


@pytest.mark.parametrize("engine", ENGINES)
def test_cista(time_case: Callable[[cases.Case, str], None], engine: str) -> None:
    time_case(cases.cista(), engine)
