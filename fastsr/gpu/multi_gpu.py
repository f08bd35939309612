# SPDX-License-Identifier: Apache-2.0
"""A plan prepared on several GPUs. Who takes which image is the engine's business (fastsr.gpu.stream)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastsr.engine import Job
from fastsr.gpu.stream import Feed

if TYPE_CHECKING:
    import numpy as np

    from fastsr.gpu.gpu import PreparedGpu


class MultiGpu:
    """A prepared plan whose network alone runs on the first GPU, and whose engine has them all."""

    def __init__(self, members: Sequence[PreparedGpu]) -> None:
        self.members = tuple(members)
        self.radius = members[0].radius
        names = Counter(member.isa for member in members)
        self.isa = " + ".join(f"{count} x {name}" for name, count in names.items())

    def run(
        self,
        x: np.ndarray,  # [C, h, w] f32 in [0, 1]
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32
        return self.members[0].run(x)

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        return self.members[0].explain(h, w)

    def engine(self, job: Job) -> Feed:
        return Feed(self.members, self.isa, job)
