# SPDX-License-Identifier: Apache-2.0
"""A plan prepared on several GPUs. Who takes which image is the feed's business (fastsr.stream)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from fastsr.executors.gpu import PreparedGpu


class Several:
    """What the upscaler asks a prepared plan, answered by all GPUs or, where one is enough, by the first."""

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

    def tune(self, n: int, h: int, w: int) -> list[dict[str, Any]]:
        """Each GPU by itself: they may be of different kinds. The rows of all."""
        return [row for member in self.members for row in member.tune(n, h, w)]
