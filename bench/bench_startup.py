# SPDX-License-Identifier: Apache-2.0
"""What a user of the shell waits for: the import (target 0.3 s), and a 256x256 photo from start to file (target 1 s)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsr
from fastsr.benchmark import photo

HEAVY = "torch", "scipy", "sklearn", "triton"


def test_import(benchmark: Any) -> None:
    code = f"import sys, fastsr; print([m for m in {HEAVY!r} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    out = benchmark.pedantic(subprocess.check_output, args=(command,), rounds=5, warmup_rounds=1)
    assert out.decode().strip() == "[]"
    benchmark.extra_info["checked"] = True


def test_upscale_256(benchmark: Any, tmp_path: Path) -> None:
    from PIL import Image

    names = [info.name for info in fastsr.models()]
    if "annet_x3" not in names:
        pytest.skip("annet_x3 is not among the shipped weights")
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    pixels = (photo(256, 256, 3).transpose(1, 2, 0) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(source)
    command = [sys.executable, "-m", "fastsr", "upscale", str(source), "-o", str(target), "-m", "annet_x3"]
    benchmark.pedantic(subprocess.check_call, args=(command,), rounds=5, warmup_rounds=1)
    assert Image.open(target).size == (768, 768)
    benchmark.extra_info["checked"] = True
