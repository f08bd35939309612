# SPDX-License-Identifier: Apache-2.0
"""Plans: a model lowered to a short list of fused ops with named weights. Plain data, JSON in the model file.

A plan reads the value `lr` and its last step writes the value `out`. What an op requires, which shape it
gives and what it costs is not known here, nor how its JSON is read: `fastsr._core` is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastsr import _core

Param = int | float | str | bool

INPUT = "lr"
OUTPUT = "out"


@dataclass(frozen=True)
class Step:
    """One op of a plan: `out = op(inputs; weights, params)`."""

    op: str
    inputs: tuple[str, ...]
    out: str
    weights: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """role in the op -> name of the tensor in the model file"""
    params: Mapping[str, Param] = field(default_factory=lambda: MappingProxyType({}))

    def to_dict(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "inputs": list(self.inputs),
            "out": self.out,
            "weights": dict(self.weights),
            "params": dict(self.params),
        }


@dataclass(frozen=True)
class Plan:
    """A whole model as data: colour `domain` ("y" or "rgb"), integer `scale`, `steps`."""

    domain: str
    scale: int
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "scale": self.scale,
            "steps": [s.to_dict() for s in self.steps],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @property
    def channels(self) -> int:
        """Channels of `lr` and of `out`: 1 for Y, 3 for RGB."""
        return 1 if self.domain == "y" else 3

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the tensors the plan reads, each once, in order of first use."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.weights.values()))

    @staticmethod
    def from_json(text: str) -> Plan:
        """Parse a plan. Raises ModelError when `text` is not one; the ops themselves are checked where it is run."""
        return Plan.from_dict(_core.parse_plan(text.encode("utf-8", "surrogatepass")))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        """The plan of which `data` is the `to_dict`. Nothing is checked."""
        return Plan(data["domain"], data["scale"], tuple(_step(step) for step in data["steps"]))


def _step(data: Mapping[str, Any]) -> Step:
    weights, params = MappingProxyType(dict(data["weights"])), MappingProxyType(dict(data["params"]))
    return Step(data["op"], tuple(data["inputs"]), data["out"], weights, params)
