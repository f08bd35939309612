# SPDX-License-Identifier: Apache-2.0
"""Exact tiling: any tile size, thread count, memory limit and task order gives the same bytes."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core
from fastsr.plan import Plan
from fastsr.testing import anchored_weights, conv_weights, rng, step

ROLES = {"filters": "filters", "atoms": "atoms", "projections": "projections"}


def annet_like(scale: int) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    weights = anchored_weights(scale, 9, 12, 40, 3) | conv_weights([(16, 1, 5), (1, 16, 3)], 3)
    steps = (
        step("resize_bicubic", ("lr",), "b", scale=scale),
        step("anchored_regression", ("lr", "b"), "c", ROLES, scale=scale),
        step("conv2d", ("c",), "m", {"w": "w0", "b": "b0"}, border="symmetric", activation="relu"),
        step("conv2d", ("m", "c"), "out", {"w": "w1", "b": "b1"}, border="symmetric"),
    )
    return Plan("y", scale, steps).to_dict(), weights


@given(
    h=st.integers(1, 70),
    w=st.integers(1, 70),
    scale=st.integers(1, 4),
    tile=st.integers(1, 90),
    threads=st.integers(1, 5),
    shuffle=st.integers(0, 50),
    seed=st.integers(0, 99),
)
def test_tiles_and_threads_change_nothing(
    h: int, w: int, scale: int, tile: int, threads: int, shuffle: int, seed: int
) -> None:
    plan, weights = annet_like(scale)
    x = rng(seed).random((1, h, w), dtype=np.float32)
    whole = _core.Session(plan, weights, threads=1).run(x)
    tiled = _core.Session(plan, weights, threads=threads, tile=tile, shuffle=shuffle, poison=True).run(x)
    assert tiled.tobytes() == whole.tobytes()


def test_a_crop_far_from_its_edge_is_the_whole_images() -> None:
    """What exact tiling means to a user: with a halo of the declared radius, a part gives the whole's pixels.

    Bit by bit if it begins at a multiple of 4 output rows, the blocks of Winograd's convolutions.
    """
    plan, weights = annet_like(2)
    session = _core.Session(plan, weights)
    x = rng(0).random((1, 60, 60), dtype=np.float32)
    halo = session.radius + session.radius % 2
    part = session.run(np.ascontiguousarray(x[:, 20 - halo : 40 + halo, 20 - halo : 40 + halo]))
    inner = part[:, 2 * halo : -2 * halo, 2 * halo : -2 * halo]
    assert inner.tobytes() == session.run(x)[:, 40:80, 40:80].tobytes()


def test_one_session_serves_many_threads() -> None:
    plan, weights = annet_like(3)
    session = _core.Session(plan, weights, threads=3)
    images = [rng(i).random((1, 10 + i, 40 - i), dtype=np.float32) for i in range(24)]
    expected = [session.run(x) for x in images]
    with ThreadPoolExecutor(8) as pool:
        for result, want in zip(pool.map(session.run, images), expected, strict=True):
            assert result.tobytes() == want.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process")
def test_the_pool_survives_a_fork() -> None:
    plan, weights = annet_like(2)
    session = _core.Session(plan, weights, threads=4)
    x = rng(0).random((1, 50, 50), dtype=np.float32)
    expected = session.run(x)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if session.run(x).tobytes() == expected.tobytes() else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_process_that_may_start_few_threads_runs_all_the_same() -> None:
    """Limits on threads or memory are common in containers: those there are, at worst the caller alone, do the work."""
    plan, weights = annet_like(2)
    session = _core.Session(plan, weights, threads=64)
    x = rng(0).random((1, 300, 300), dtype=np.float32)
    expected = session.run(x)
    pid = os.fork()
    if pid == 0:  # has the session's memory, and no thread
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (10 << 20), resource.RLIM_INFINITY))  # room for some stacks
        try:
            os._exit(0 if session.run(x).tobytes() == expected.tobytes() else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
