# SPDX-License-Identifier: Apache-2.0
"""upsample_residual against its peers, as btsrn uses it, 128 maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases


@pytest.mark.parametrize("engine", ENGINES)
def test_upsample_residual(time_case: Callable[[cases.Case, str], None], engine: str) -> None:
    time_case(cases.upsample_residual(), engine)
