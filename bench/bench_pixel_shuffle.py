# SPDX-License-Identifier: Apache-2.0
"""pixel_shuffle against its peers, as crnet_b uses it, behind a convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases


@pytest.mark.parametrize("engine", ENGINES)
def test_pixel_shuffle(time_case: Callable[[cases.Case, str], None], engine: str) -> None:
    time_case(cases.pixel_shuffle(), engine)
