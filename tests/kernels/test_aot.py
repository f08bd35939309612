# SPDX-License-Identifier: Apache-2.0
"""All configurations of all Triton kernels compile for sm_80, sm_90 and sm_100 without spilling registers.

In a process of its own, since this one interprets kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

NEWEST = not triton.__version__.startswith("3.6.")  # else the oldest that is allowed
SCRIPT = Path(__file__).parents[2] / "bench/aot.py"
PRODUCTS = {"conv_gemm", "conv_image", "pconv", "deconv", "shallow", "score", "project"}
INSTRUCTION = {80: "mma.sync", 89: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
SMALL = {"project"}
"""products that may have 16 rows, below the 64 of a warp group"""


def compiled(*options: str) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(row: dict[str, Any]) -> None:
    # Triton 3.6 keeps 8 bytes of one candidate of Blackwell's on the stack, which the tuner then finds slower or not.
    most = 0 if row["default"] or NEWEST else 8
    assert row["stack"] <= most, f"{row} spills"
    assert row["shared"] <= row["limit"], row
    if row["kernel"] in PRODUCTS and row["precision"] in ("fp16", "bf16"):
        wanted = {INSTRUCTION[row["arch"]]} | ({"mma.sync"} if row["kernel"] in SMALL else set())
        assert wanted & set(row["matrix"]), f"{row} has none of {wanted}"


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_every_candidate_compiles_without_spills(arch: int) -> None:
    rows = compiled("--arch", str(arch), "--dtype", "fp16", "--all")
    assert {row["default"] for row in rows} == {True, False}
    assert {row["kernel"] for row in rows} >= PRODUCTS | {
        "bicubic",
        "shuffle",
        "affine",
        "combine",
        "color_split",
        "color_join",
        "conv_few",
        "pad_border",
    }
    for row in rows:
        check(row)


@pytest.mark.parametrize("arch", [89, 90, 100])
def test_e4m3_products_use_the_matrix_units(arch: int) -> None:
    rows = compiled("--arch", str(arch), "--dtype", "fp8", "--all", "--only", "cista", "pconv")
    for row in rows:
        check(row)
        assert INSTRUCTION[arch] in row["matrix"], row
    defaults = [row for row in rows if row["default"]]
    # Of cista w and the first recursion multiply fp16.
    assert [row["e4m3"] for row in defaults if row["kernel"] == "conv_gemm"] == [False, False, True, True]
    assert all(row["e4m3"] for row in rows if row["kernel"] == "pconv")


@pytest.mark.parametrize("precision", ["bf16", "fp32", "tf32"])
def test_other_precisions_of_the_widest_kernels(precision: str) -> None:
    rows = compiled("--arch", "90", "--dtype", precision, "--all", "--only", "cista", "pconv")
    assert {row["kernel"] for row in rows} == {"conv_gemm", "pconv"}
    for row in rows:
        check(row)
    exact = precision == "fp32"
    assert all(bool(row["matrix"]) != exact for row in rows)
