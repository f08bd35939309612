# SPDX-License-Identifier: Apache-2.0
"""Random plans of all ops through the C++ core: right on every ISA, in fp32 and bf16, the same bytes in every setting.

A few minutes of a fixed seed; `--graphs-minutes 60` goes on with others for as long. What fails is printed, made small, as
JSON: a file of it here, `<anything>.json`, is tried by every run from then on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from graphs.case import Case
from graphs.judge import check
from graphs.search import report, search
from graphs.workers import Worker

HERE = Path(__file__).parent
CASES = 400
"""of the short run"""
SEED = 12


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.close()


@pytest.mark.parametrize("path", sorted(HERE.glob("*.json")), ids=lambda path: path.stem)
def test_what_failed_once(path: Path, worker: Worker) -> None:
    check(Case.from_json(path.read_text()), worker)


def test_random_graphs(worker: Worker, request: pytest.FixtureRequest) -> None:
    minutes = float(request.config.getoption("graphs_minutes"))
    until = time.monotonic() + 60 * minutes

    def more(done: int) -> bool:
        return time.monotonic() < until if minutes else done < CASES

    seed = time.time_ns() % 1_000_000 if minutes else SEED
    found = [report(*failure) for failure in search(worker, seed, more)]
    assert not found, f"seed {seed}:\n" + "\n".join(found)
