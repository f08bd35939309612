# SPDX-License-Identifier: Apache-2.0
"""The search for plans that fail: `python -m graphs.search --minutes 20 [--seed 7] [--keep folder]`, with tests/ in PYTHONPATH.

Cases are drawn one after the other from a seeded stream of bytes (Hypothesis's own search spends five of six examples on
variations of the last one). One that fails is made small by Hypothesis, which takes some hundred runs of smaller cases.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from graphs.case import Case
from graphs.judge import Finding, check
from graphs.strategy import cases
from graphs.workers import Worker
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import InMemoryExampleDatabase

BYTES = 8192
"""of randomness for one case: more than the longest needs"""


def search(worker: Worker, seed: int, more: Callable[[int], bool]) -> Iterator[tuple[int, Case, Finding]]:
    """Draws and checks cases while `more(done)`; yields each that failed, made small: its number, itself, and how.

    The stream, and so what is found, depends on the seed alone.
    """
    torch.set_num_threads(1)  # the worker has the others
    stream = random.Random(seed)
    done = 0
    while more(done):
        test, found = trap(worker)
        try:
            while more(done):
                done += 1
                test.hypothesis.fuzz_one_input(stream.randbytes(BYTES))
        except Failed:
            with contextlib.suppress(Failed):
                test()
            yield done, *found[-1]  # Hypothesis ends with the smallest


def trap(worker: Worker) -> tuple[Any, list[tuple[Case, Finding]]]:
    """A test that checks a case and, once one has failed, makes it small; and a list of the failures it has seen."""
    found: list[tuple[Case, Finding]] = []
    seen: dict[str, Finding | None] = {}  # what lies in memory is no constant, a verdict is

    @settings(
        database=InMemoryExampleDatabase(),
        phases=[Phase.reuse, Phase.shrink],
        max_examples=1,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def test(case: Case) -> None:
        key = case.to_json()
        if key not in seen:
            seen[key] = judged(case, worker)
        finding = seen[key]
        if finding is not None and (not found or type(found[0][1]) is type(finding)):  # no other fault than the first
            found.append((case, finding))
            raise Failed

    return test, found


class Failed(Exception):
    """Of one kind, so that Hypothesis takes all failures of a case and its smaller forms for one."""


def judged(case: Case, worker: Worker) -> Finding | None:
    try:
        check(case, worker)
    except Finding as finding:
        return finding
    return None


def report(number: int, case: Case, finding: Finding) -> str:
    return f"case {number}: {type(finding).__name__}: {finding}\n{case.to_json()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for what fails, a JSON file each")
    parser.add_argument("--package", type=Path, help="a folder with a fastsr to try instead of this one")
    parser.add_argument("--preload", help="a library that must be loaded first: a sanitizer's")
    args = parser.parse_args()
    if args.package and not args.package.is_dir():
        parser.error(f"--package: there is no folder {args.package}")
    preload = {"LD_PRELOAD": args.preload} if args.preload else None
    until = time.monotonic() + 60 * args.minutes
    worker, found, drawn = Worker(preload, package=args.package and args.package.resolve()), 0, 0

    def more(done: int) -> bool:
        nonlocal drawn
        drawn = done
        return bool(time.monotonic() < until)

    for number, case, finding in search(worker, args.seed, more):
        found += 1
        print(report(number, case, finding), flush=True)
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{type(finding).__name__.lower()}-{args.seed}-{number}.json").write_text(
                case.to_json() + "\n"
            )
    worker.close()
    print(f"{found} of {drawn} cases fail (seed {args.seed})")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
