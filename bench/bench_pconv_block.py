# SPDX-License-Identifier: Apache-2.0
"""pconv_block against its peers, as btsrn uses it: two residual blocks of 128 and 64 maps at HR size."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastsr.benchmark import ENGINES, cases


@pytest.mark.parametrize("engine", ENGINES)
def test_pconv_block(time_case: Callable[[cases.Case, str], None], engine: str) -> None:
    time_case(cases.pconv_block(), engine)
