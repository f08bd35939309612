# SPDX-License-Identifier: Apache-2.0
"""Runs cases in a process of its own, without torch: a case a line in, an answer each out (graphs/workers.py).

A case that kills this process is a finding, and a sanitizer, which wants to be loaded first, has only numpy and the core to
watch. An answer is a line of JSON, then the outputs it lists, as float32.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from graphs.case import Case, Setting

from fastsr import _core
from fastsr.errors import FastsrError, LimitError

HALVES = ("avx512bf16", "amx")


class Runs:
    """All runs of a case on one ISA in one precision: the output, and what differs from it."""

    def __init__(self, case: Case, weights: dict[str, np.ndarray], isa: str, bf16: bool) -> None:
        self.case, self.weights, self.isa, self.bf16 = case, weights, isa, bf16
        self.x = case.image()
        self.problems: list[str] = []
        self.out: np.ndarray | None = None
        self.kernels: list[str] = []

    def session(self, setting: Setting, poison: bool, limit: int = 0) -> _core.Session:
        return _core.Session(
            self.case.plan,
            self.weights,
            threads=setting.threads,
            tile=setting.tile,
            memory_limit=limit,
            isa=self.isa,
            poison=poison,
            shuffle=setting.shuffle,
            bf16=self.bf16,
            algorithm=self.case.algorithm,
        )

    def run(self) -> None:
        first = self.session(self.case.settings[0], poison=True)
        self.out = first.run(self.x)
        self.kernels = [row["who"] for row in first.explain(self.case.height, self.case.width)]
        memory = first.memory(self.case.height, self.case.width)
        for setting in self.case.settings[1:]:
            try:
                out = self.session(setting, poison=True, limit=int(setting.limit * memory)).run(self.x)
            except LimitError:
                if setting.limit:
                    continue  # a low limit may be refused
                raise
            self.compare(out, str(setting))
        # What other images leave in the session's memory changes nothing.
        session = self.session(self.case.settings[0], poison=False)
        self.compare(session.run(self.x), "memory that is not poisoned")
        other = (self.case.channels, max(1, self.case.height // 2), min(self.case.width + 3, 2 * self.case.width))
        session.run(np.full(other, 7, np.float32))
        self.compare(session.run(self.x), "a session that has run another size")

    def compare(self, out: np.ndarray, what: str) -> None:
        assert self.out is not None
        if out.tobytes() != self.out.tobytes():
            differ = np.argwhere(~((out == self.out) | (np.isnan(out) & np.isnan(self.out))))
            where = f"{len(differ)} of {out.size} numbers, from {differ[0].tolist()}" if len(differ) else "only in bits"
            self.problems.append(f"{what}: other bytes than {self.case.settings[0]}: {where}")


def answer(case: Case) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    weights = case.weights()
    rows, outputs = [], []
    for isa in _core.isas():
        for bf16 in (False, True)[: 1 + (isa in HALVES)]:
            runs = Runs(case, weights, isa, bf16)
            try:
                runs.run()
            except (FastsrError, RuntimeError, ValueError) as e:
                runs.problems.append(f"refused: {type(e).__name__}: {e}")
            shape = None if runs.out is None else runs.out.shape
            rows.append({"isa": isa, "bf16": bf16, "kernels": runs.kernels, "problems": runs.problems, "shape": shape})
            if runs.out is not None:
                outputs.append(runs.out)
    return rows, outputs


def main() -> None:
    for line in sys.stdin:
        rows, outputs = answer(Case.from_json(line))
        sys.stdout.buffer.write(json.dumps(rows).encode() + b"\n")
        for out in outputs:
            sys.stdout.buffer.write(out.tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
