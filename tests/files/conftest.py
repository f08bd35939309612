# SPDX-License-Identifier: Apache-2.0
"""The shell in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastsr import cli

Up = Callable[..., tuple[int, str]]


@pytest.fixture
def up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Up:
    """`fastsr upscale` by annet_x2, in this process and in tmp_path: (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fastsr", "upscale", "-m", "annet_x2", *map(str, args)])
        with pytest.raises(SystemExit) as e:
            cli.main()
        assert isinstance(e.value.code, int)
        return e.value.code, capsys.readouterr().err

    return call
