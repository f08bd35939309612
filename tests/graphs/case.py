# SPDX-License-Identifier: Apache-2.0
"""A case: a plan, what its tensors are drawn from, an image's size, and the settings it runs with. Plain JSON.

Numbers are drawn from seeds and names, not stored: a case that fails is a few hundred characters to paste into the corpus,
and taking a step away leaves the tensors of all others as they were.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """Normal numbers: `shape`, and their standard deviation."""

    shape: tuple[int, ...]
    std: float
    half: bool = False
    """rounded to float16, as model files hold projections"""

    def draw(self, seed: int, name: str) -> np.ndarray:
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = self.std * random.standard_normal(self.shape)
        return values.astype(np.float16 if self.half else np.float32).astype(np.float32)


@dataclass(frozen=True)
class Setting:
    """How a session runs, beside its ISA. None of it may change a bit but `way`."""

    threads: int = 1
    tile: int = 0
    shuffle: int = 0
    limit: float = 0.0
    """memory_limit as a part of what the session takes without, 0: none"""


@dataclass(frozen=True)
class Case:
    plan: dict[str, Any]
    tensors: dict[str, Tensor]
    height: int
    width: int
    seed: int = 0
    algorithm: str = ""
    settings: tuple[Setting, ...] = field(default=(Setting(),))

    @property
    def channels(self) -> int:
        return 1 if self.plan["domain"] == "y" else 3

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.draw(self.seed, name) for name, tensor in self.tensors.items()}

    def image(self) -> np.ndarray:
        shape = (self.channels, self.height, self.width)
        return np.random.default_rng(self.seed).random(shape, dtype=np.float32) - np.float32(0.3)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Case:
        data = json.loads(text)
        data["tensors"] = {k: Tensor(**{**v, "shape": tuple(v["shape"])}) for k, v in data["tensors"].items()}
        data["settings"] = tuple(Setting(**s) for s in data["settings"])
        return Case(**data)
