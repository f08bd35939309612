# SPDX-License-Identifier: Apache-2.0
"""The emulator sees what it is there for: kernels from which a barrier or a wait is taken must fail, in some order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import anchored_regression, cista, pconv_block  # noqa: E402
from fastsr.ops import anchored_regression as anchored_op  # noqa: E402
from fastsr.ops import cista as cista_op  # noqa: E402
from fastsr.ops import pconv_block as pconv_op  # noqa: E402
from fastsr.testing import anchored_weights  # noqa: E402

TOLERATED = {torch.float16: 0.01, torch.float32: 1e-4}
"""max abs error, twice that of the kernels as they are or more; what breaks here shows as much more"""


def random(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def small_case(op: str) -> tuple[Any, Any, dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """kernel, reference, weights, inputs, parameters: several tiles for a block, several chunks in a tile."""
    if op == "pconv_block":
        weights = {"w1": random(16, 32, 1, 1) / 6, "b1": random(16), "w3": random(32, 16, 3, 3) / 12}
        return pconv_block, pconv_op.reference, weights, (random(1, 32, 20, 50).half(),), {}
    if op == "cista":
        weights = {"w": random(32, 48, 3, 3) / 20, "s": random(32, 32, 3, 3) / 17}
        return cista, cista_op.reference, weights, (random(1, 48, 20, 40).half(),), {"steps": 1}
    halves = anchored_weights(2, 9, 28, 320, seed=1)
    weights = {role: torch.from_numpy(w).half().float() for role, w in halves.items()}
    weights["filters"][14:] = weights["filters"][:14] * (1 + 2.0**-13)  # features that one half float each cannot tell
    atoms = weights["atoms"]
    atoms[80:108] = 1.5 * torch.eye(28)
    atoms[160:240] = atoms[3:83]  # held by other lanes; the first of two wins
    atoms[240:320] = atoms[80:160] * (1 + random(80, 28) / 4096)  # nor these
    x, base = random(1, 1, 15, 24), random(1, 1, 30, 48)
    if op == "anchored_regression of faint images":  # flat, every patch
        return anchored_regression, anchored_op.reference, scaled(weights, 1e7), (x * 1e-6, base), {"scale": 2}
    return anchored_regression, anchored_op.reference, weights, (x, base), {"scale": 2}


def scaled(weights: dict[str, Any], by: float) -> dict[str, Any]:
    return weights | {"projections": weights["projections"] * by}


ORDERS = ("forward", "reverse", "random")


def is_right(emulation: Any, op: str, orders: tuple[str, ...] = ORDERS) -> bool:
    """Whether the kernel, as it is or changed, gives the reference's output in all these orders."""
    kernel, reference, weights, inputs, params = small_case(op)
    expected = reference(*(x.double() for x in inputs), **{k: w.double() for k, w in weights.items()}, **params)
    for order in orders:
        emulation.order = order
        try:
            out = emulation.run(kernel, weights, inputs[0].dtype, *inputs, **params)
        except RuntimeError:  # an EmulationError
            return False
        if not float((out.double() - expected).abs().max()) < TOLERATED[out.dtype]:
            return False
    return True


CASES = ("pconv_block", "cista", "anchored_regression", "anchored_regression of faint images")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("op", CASES)
def test_the_small_cases_are_right(emulation: Any, op: str, order: str) -> None:
    assert is_right(emulation, op, (order,))


BROKEN = [
    *[(op, "__syncthreads();", "", i) for op, n in (("pconv_block", 1), ("cista", 1), ("anchored_regression", 9)) for i in range(n)],
    *[(op, "cp_async_wait<kStages - 2>", "cp_async_wait<kStages - 1>", 0) for op in ("pconv_block", "cista", "anchored_regression")],
    ("pconv_block", "inside ? act", "true ? act", 0),  # t beyond the image
    ("pconv_block", "load_tile(static_cast<int>(blockIdx.x))", "load_tile(0)", 0),
    ("cista", "11 - kStages < 9 ? 11 - kStages : 9", "9", 0),  # the last piece of a halo comes too late
    ("cista", "instr::cp_async_wait<0>();", "", 0),
    ("anchored_regression of faint images", "top >= kFlat", "true", 0),
    ("anchored_regression", "Fp16::mma(score, low[m][k]", "if (false) Fp16::mma(score, low[m][k]", 0),
    ("anchored_regression", "Fp16::mma(score, high[m][k], dl", "if (false) Fp16::mma(score, high[m][k], dl", 0),
    ("anchored_regression", "other == score && other_atom < atom", "false", 0),
]  # fmt: skip


@pytest.mark.parametrize(("op", "what", "by", "occurrence"), BROKEN)
def test_a_broken_kernel_is_caught(emulation: Any, op: str, what: str, by: str, occurrence: int) -> None:
    def change(source: str) -> str:
        parts = source.split(what)
        assert len(parts) > occurrence + 1, f"{what} is no longer in {op}.cu"
        return what.join(parts[: occurrence + 1]) + by + what.join(parts[occurrence + 1 :])

    emulation.change = change
    emulation.flags = ("-O0", "-w")
    assert not is_right(emulation, op)


FAULTS = """
#include "common.cuh"
extern "C" __global__ void fault(int which, const unsigned char* from, float* out) {
  using namespace fastsr;
  FASTSR_DYNAMIC_SHARED(shared);
  const int i = static_cast<int>(threadIdx.x);
  unsigned r[4];
  if (which == 0) out[i] = __shfl_xor_sync(~0u, static_cast<float>(i), 5) + __shfl_up_sync(~0u, i, 1);
  if (which == 1 && i < 32) __syncthreads();
  if (which == 2 && i % 2) __syncwarp();
  if (which == 2 && i % 2 == 0) __shfl_xor_sync(~0u, i, 1);
  if (which == 3 && i != 7) instr::ldmatrix_x4(r, shared);
  if (which == 4) instr::ldmatrix_x4(r, shared + 8);
  if (which == 5) instr::ldmatrix_x4(r, shared + 1024);
  if (which == 6) shared[1024 + i] = 0;
  if (which == 7) instr::cp_async_16(shared + i * 16, from, true);
  if (which == 8) instr::cp_async_16(shared, from + 8, true);
  if (which == 9) out[i] = reinterpret_cast<float*>(shared)[i];
  if (which == 9 && i) __syncthreads();
}
"""


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, None),
        (1, "__syncthreads after a thread has ended"),
        (2, "the lanes of a warp wait for different collectives"),
        (3, "a collective without all lanes of the warp"),
        (4, "in shared memory that is not aligned to 16 bytes in thread"),
        (5, "an address outside shared memory"),
        (6, "a write behind the end of shared memory"),
        (7, "a thread ends while its cp.async are under way"),
        (8, "cp.async from an address that is not aligned"),
        (9, "__syncthreads after a thread has ended"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_faults_have_messages(emulate: Any, which: int, message: str | None, order: str) -> None:
    out = np.zeros(64, np.float32)
    source = torch.zeros(64)
    arguments = [np.int32(which), np.uintp(source.data_ptr()), np.uintp(out.ctypes.data)]
    if message is None:
        emulate(FAULTS, "fault", 64, 1024, order, arguments)
        lanes = np.arange(64)
        assert np.array_equal(out, (lanes ^ 5) + np.where(lanes % 32 == 0, lanes, lanes - 1))
        return
    with pytest.raises(RuntimeError, match=message):
        emulate(FAULTS, "fault", 64, 1024, order, arguments)
    assert which != 9 or np.isnan(out[1:]).any(), "shared memory does not begin as NaN"


def test_under_sanitizers(emulation: Any) -> None:
    """The small cases again, with AddressSanitizer and UBSan in the kernels."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    flags = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    cases = [f"{Path(__file__)}::test_the_small_cases_are_right[{op}-random]" for op in CASES[:3]]
    cases.append(f"{Path(__file__).parent / 'test_cista_wgmma.py'}::test_the_case_of_the_broken_ones_is_right")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *cases, f"--emulation-flags={flags}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert f"{len(cases)} passed" in result.stdout
