# SPDX-License-Identifier: Apache-2.0
"""cista by wgmma and TMA, emulated: right in all orders, and wrong wherever the kernel breaks a rule of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastsr.kernels.cuda import cista, runtime, tensormap  # noqa: E402
from fastsr.kernels.cuda.compile import KernelError  # noqa: E402
from fastsr.ops.cista import reference  # noqa: E402
from fastsr.testing import assert_as_near, precision_of  # noqa: E402

ORDERS = ("forward", "reverse", "random")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def case(n0: int, m0: int, shape: tuple[int, int, int], dtype: Any, seed: int) -> tuple[dict[str, Any], Any]:
    """Weights and y."""
    random = torch.Generator().manual_seed(seed)
    n, h, w = shape
    weights = {
        "w": torch.randn(m0, n0, 3, 3, generator=random) / (9 * n0) ** 0.5,
        "s": torch.randn(m0, m0, 3, 3, generator=random) * 0.7 / (9 * m0) ** 0.5,
    }
    y = torch.randn(n, n0, h, w, generator=random).to(dtype)
    return weights, y.to(memory_format=torch.channels_last)


def check(out: Any, y: Any, weights: dict[str, Any], steps: int) -> None:
    expected = reference(y.double(), **{role: w.double() for role, w in weights.items()}, steps=steps)
    plain = reference(y, **{role: w.to(y.dtype) for role, w in weights.items()}, steps=steps)
    assert_as_near(out, expected, plain, precision_of(out))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("config", "channels", "shape", "steps", "precision"),
    [
        ("wgmma 16x64", (64, 64), (1, 1, 1), 2, "bf16"),
        ("wgmma 16x64", (128, 192), (2, 5, 33), 1, "fp16"),  # three items a tile; rings go round in an item
        ("wgmma 16x64", (16, 64), (1, 17, 16), 1, "fp16"),  # w by mma
        ("wgmma 16x128", (64, 128), (2, 16, 17), 1, "bf16"),
        ("wgmma 8x256", (64, 256), (1, 9, 18), 1, "fp16"),
    ],
)
def test_emulated(
    emulation: Any,
    order: str,
    config: str,
    channels: tuple[int, int],
    shape: tuple[int, int, int],
    steps: int,
    precision: str,
) -> None:
    emulation.order, emulation.arch = order, "sm_90a"
    weights, y = case(*channels, shape, HALVES[precision], seed=shape[2])
    check(emulation.run(cista, weights, y.dtype, y, steps=steps, config=config), y, weights, steps)


def test_random_shapes(emulation: Any) -> None:
    emulation.arch = "sm_90a"
    sizes = np.random.default_rng(11)
    for order in ORDERS * 3:
        emulation.order = order
        n, h, w = int(sizes.integers(1, 4)), int(sizes.integers(1, 36)), int(sizes.integers(1, 36))
        weights, y = case(64, 64, (n, h, w), torch.float16, seed=h)
        check(emulation.run(cista, weights, y.dtype, y, steps=1, config="wgmma 16x64"), y, weights, 1)


def test_tiles_of_all_sizes_give_the_same_bits(emulation: Any) -> None:
    emulation.arch = "sm_90a"
    weights, y = case(64, 256, (1, 10, 20), torch.bfloat16, seed=5)
    by = [
        emulation.run(cista, weights, y.dtype, y, steps=1, config=config) for config in ("wgmma 16x128", "wgmma 8x256")
    ]
    assert torch.equal(*by)


def test_candidates_are_those_of_the_device_and_the_channels(emulation: Any) -> None:
    def ask(arch: str, n0: int, m0: int) -> list[str]:
        emulation.arch = arch
        weights, _ = case(n0, m0, (1, 1, 1), torch.float16, 1)
        packed = cista.pack(weights, {}, torch.float16, torch.device("cpu"))
        return cista.candidates(packed, torch.device("cpu"))

    assert ask("sm_90a", 128, 256) == ["mma", "wgmma 16x128", "wgmma 8x256"]
    assert ask("sm_90a", 64, 128) == ["mma", "wgmma 16x128"]
    assert ask("sm_90a", 16, 64) == ["mma", "wgmma 16x64"]
    assert ask("sm_90a", 64, 96) == ["mma"]
    assert ask("sm_80", 128, 256) == ask("sm_100", 128, 256) == ["mma"]


def test_a_candidate_that_is_none_here_is_refused(emulation: Any) -> None:
    emulation.arch = "sm_80"
    weights, y = case(64, 128, (1, 2, 2), torch.float16, 1)
    packed = cista.pack(weights, {}, torch.float16, torch.device("cpu"))
    with pytest.raises(KernelError, match="cista by 'wgmma 16x128' on sm_80 and 128 channels: takes mma"):
        cista.launch(packed, y, steps=1, config="wgmma 16x128")


def is_right(emulation: Any) -> bool:
    """Whether the kernel gives the reference's output in all orders: several items a block, rings that go round."""
    emulation.arch = "sm_90a"
    # With nine slots the waits for pixels would cover for those for weights, with six the other way round.
    emulation.patch.setattr(cista, "MOST_WEIGHT_SLOTS", 7)
    weights, y = case(128, 64, (1, 13, 34), torch.float16, seed=3)
    expected = reference(y.double(), **{role: w.double() for role, w in weights.items()}, steps=0)
    for order in ORDERS:
        emulation.order = order
        try:
            out = emulation.run(cista, weights, y.dtype, y, steps=0, config="wgmma 16x64")
        except RuntimeError:  # an EmulationError
            return False
        if not float((out.double() - expected).abs().max()) < 0.01:
            return False
    return True


def test_the_case_of_the_broken_ones_is_right(emulation: Any) -> None:
    assert is_right(emulation)


BROKEN = {
    "pixels are overwritten": ("instr::mbarrier_wait(&barriers->pixels_empty[pixels.slot], pixels.parity ^ 1);", ""),
    "weights are overwritten": ("instr::mbarrier_wait(&barriers->weights_empty[taps.slot], taps.parity ^ 1);", ""),
    "pixels are not there": ("instr::mbarrier_wait(&barriers->pixels_full[pixels.slot], pixels.parity);", ""),
    "weights are not there": ("instr::mbarrier_wait(&barriers->weights_full[taps.slot], taps.parity);", ""),
    "parity of empty pixels": ("pixels_empty[pixels.slot], pixels.parity ^ 1", "pixels_empty[pixels.slot], pixels.parity"),
    "parity of empty weights": ("weights_empty[taps.slot], taps.parity ^ 1", "weights_empty[taps.slot], 1"),
    "parity of full pixels": ("pixels_full[pixels.slot], pixels.parity", "pixels_full[pixels.slot], 0"),
    "parity of full weights": ("weights_full[taps.slot], taps.parity", "weights_full[taps.slot], taps.parity ^ 1"),
    "no fence of barriers": ("instr::fence_async_proxy();", ""),
    "no barrier of the block": ("__syncthreads();", ""),
    "too few arrivals of pixels": ("instr::mbarrier_init(&barriers->pixels_empty[i], kConsumers)", "instr::mbarrier_init(&barriers->pixels_empty[i], 1)"),
    "too few arrivals of weights": ("instr::mbarrier_init(&barriers->weights_empty[i], kConsumers)", "instr::mbarrier_init(&barriers->weights_empty[i], 2)"),
    "too many arrivals": ("if (lane_id() == 0) instr::mbarrier_arrive(empty);", "instr::mbarrier_arrive(empty);"),
    "fewer bytes than come": ("instr::mbarrier_expect(full, kPixelBytes)", "instr::mbarrier_expect(full, kPixelBytes - 16)"),
    "more bytes than come": ("instr::mbarrier_expect(full, kWeightBytes)", "instr::mbarrier_expect(full, kWeightBytes + 16)"),
    "no wgmma fence": ("instr::wgmma_fence();", ""),
    "no commit": ("instr::wgmma_commit();", ""),
    "no wait before a release": ("instr::wgmma_wait<1>();", ""),
    "a wait that is too short": ("instr::wgmma_wait<1>();", "instr::wgmma_wait<2>();"),
    "no wait before the sums are read": ("instr::wgmma_wait<0>();", ""),
    "weights are released too early": ("weights_empty[taps.before()]", "weights_empty[taps.slot]"),
    "pixels are released too early": ("if (column > 0 && dy == 0) release(&barriers->pixels_empty[pixels.before()])", "if (dy == 0) release(&barriers->pixels_empty[pixels.slot])"),
    "the last weights are not released": ("release(&barriers->weights_empty[taps.before()]);\n      release(&barriers->pixels", "release(&barriers->pixels"),
    "another swizzle": ("const u64 b = matrix(", "const u64 b = (1ull << 62) + matrix("),
    "another stride": ("const u64 a = matrix(", "const u64 a = (1ull << 32) + matrix("),
    "a matrix beside the swizzle": ("(dy + 4 * g) * kRowBytes + k * 32", "(dy + 4 * g) * kRowBytes + 128 + k * 32"),
    "rings beside the swizzle": ("% kSwizzleBlock),", "% 128),"),
    "numbers of a row": ("moved(b, k * 32)", "moved(b, k * 16)"),
    "a tap too low": ("(dy + 4 * g) * kRowBytes", "(2 - dy + 4 * g) * kRowBytes"),
    "a column too far right": ("at.x + dx - 1", "at.x + dx"),
    "a row too low": ("at.y - 1", "at.y"),
    "taps transposed": ("* 9 + dy * 3 + dx", "* 9 + dx * 3 + dy"),
    "chunks of channels": ("chunk * 64, at.x", "0, at.x"),
    "rows of the second warpgroup": ("warp_id() / 4 * (kRows / 2)", "warp_id() / 4 * 4"),
    "the warps of a warpgroup differ": ("warp_id() / 4 * (kRows / 2)", "warp_id() / 2 * (kRows / 4)"),
    "sums of the item before": ("sum[g][i] = 0.0f", "if (item == static_cast<int>(blockIdx.x)) sum[g][i] = 0.0f"),
    "halves of a warp": ("+ half * 2 +", "+ (1 - half) * 2 +"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_kernel_is_caught(emulation: Any, what: str) -> None:
    good, bad = BROKEN[what]

    def change(source: str) -> str:
        if "cista_wgmma(" not in source:
            return source
        assert good in source, f"{good} is no longer in cista_wgmma.cu"
        return source.replace(good, bad)

    emulation.change = change
    emulation.flags = ("-O1", "-w")
    assert not is_right(emulation)


def test_a_map_without_swizzle_is_caught(emulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensormap, "SWIZZLE_128", 0)
    assert not is_right(emulation)


FAULTS = """
#include "hopper.cuh"
extern "C" __global__ void fault(const fastsr::TensorMap map, int which) {
  using namespace fastsr;
  FASTSR_DYNAMIC_SHARED(shared);
  unsigned char* box = shared + (0u - instr::shared_address(shared)) % 1024;
  u64* barrier = reinterpret_cast<u64*>(box + 8192);
  const bool first = threadIdx.x == 0;
  float sum[32] = {};
  if (which == 0 && first) instr::mbarrier_arrive(barrier);
  if (first) instr::mbarrier_init(barrier, 1);
  if (first && which != 1) instr::fence_async_proxy();
  __syncthreads();
  if (which == 1 && first) instr::tensor_box(box, map, barrier, 0, 0);
  if (which == 2) instr::mbarrier_wait(barrier, 0);
  if (which == 3 && first) instr::mbarrier_expect(barrier, 8192), instr::mbarrier_expect(barrier, 0);
  if (which == 4 && first) instr::tensor_box(box, map, barrier, 0, 0);
  if (which == 5 && first) instr::tensor_box(box + 128, map, barrier, 0, 0);
  if (which == 6 && first) instr::tensor_box(box + 16384, map, barrier, 0, 0);
  if (which == 7 && first) instr::tensor_box(box, map, barrier, 0, 0, 0, 0);
  if (which == 8) instr::mbarrier_wait(barrier + 1, 0);
  if (which == 9) instr::wgmma_fence(), instr::wgmma_bf16(sum, matrix(box), matrix(box)), instr::wgmma_commit();
  if (which == 10) instr::wgmma_bf16(sum, matrix(box), matrix(box));
  if (which == 11 && lane_id() < 16) instr::wgmma_wait<0>();
  if (which == 12) instr::mbarrier_wait(barrier, 2);
  if (which == 13) instr::mbarrier_init(reinterpret_cast<u64*>(box + 4), 1);
  if (which == 14) {
    instr::wgmma_fence();
    instr::wgmma_bf16(sum, matrix(box + 200 * 1024), matrix(box));
    instr::wgmma_commit();
    instr::wgmma_wait<0>();
  }
}
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, "an mbarrier that is not initialised in thread 0"),
        (1, "an mbarrier used by TMA without a fence"),
        (2, "deadlock: threads wait for different barriers, or for what nobody will do"),
        (3, "more arrivals at an mbarrier than it expects"),
        (4, "a block ends while its copies by TMA are under way"),
        (5, "to where the swizzle does not begin"),
        (6, "an address outside shared memory"),
        (7, "of another rank than its map"),
        (8, "an mbarrier that is not initialised"),
        (9, "a thread ends while its wgmma are under way"),
        (10, "wgmma without the fence before its group"),
        (11, "a collective without all lanes of the warp"),
        (12, "a parity that is neither 0 nor 1"),
        (13, "an mbarrier that is not aligned to 8 bytes"),
        (14, "an address outside shared memory"),
    ],
)
def test_faults_have_messages(emulate: Any, emulation: Any, which: int, message: str, order: str) -> None:
    rows = torch.zeros(64, 64, dtype=torch.bfloat16)
    arguments = runtime.arguments(tensormap.of_rows(rows, 64), which)
    if which == 4 and order != "forward":
        pytest.skip("the engine may be done in time")
    with pytest.raises(RuntimeError, match=message):
        emulate(FAULTS, "fault", 128, 16384, order, arguments)
