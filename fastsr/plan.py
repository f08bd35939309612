# SPDX-License-Identifier: Apache-2.0
"""Plans: a model lowered to a short list of fused ops with named weights. Plain data, JSON in the model file.

A plan reads the value `lr` and its last step writes the value `out`. What an op requires, which shape it
gives and what it costs is not known here: `fastsr._core` (csrc/ops) is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastsr.errors import ModelError

Param = int | float | str | bool

INPUT = "lr"
OUTPUT = "out"
DOMAINS = ("y", "rgb")


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
        """Parse a plan. Raises ModelError when `text` is not one; the ops themselves are checked by `_core`."""
        try:
            data = json.loads(text, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as e:
            raise ModelError(f"the plan is not valid JSON: {e}") from None
        return Plan.from_dict(data)

    @staticmethod
    def from_dict(data: object) -> Plan:
        try:
            assert_keys(data, {"domain", "scale", "steps"}, "plan")
            assert isinstance(data, dict)
            if data["domain"] not in DOMAINS:
                raise ModelError(f"plan: domain {data['domain']!r} is not one of {', '.join(DOMAINS)}")
            scale = data["scale"]
            if type(scale) is not int or not 1 <= scale <= 16:
                raise ModelError(f"plan: scale {scale!r} is not an integer from 1 to 16")
            steps = data["steps"]
            if not isinstance(steps, list) or not 1 <= len(steps) <= 1024:
                raise ModelError("plan: steps must be a list of 1 to 1024 steps")
            return Plan(data["domain"], scale, tuple(_step(i, s) for i, s in enumerate(steps)))
        except (KeyError, TypeError) as e:
            raise ModelError(f"the plan is malformed: {e}") from None


def assert_keys(data: object, keys: set[str], what: str) -> None:
    """Raise ModelError unless `data` is a dict with exactly `keys`."""
    if not isinstance(data, dict) or set(data) != keys:
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ModelError(f"{what}: expected an object with keys {sorted(keys)}, got {got}")


def _step(i: int, data: object) -> Step:
    assert_keys(data, {"op", "inputs", "out", "weights", "params"}, f"plan step {i}")
    assert isinstance(data, dict)
    op, inputs, out, weights, params = (data[k] for k in ("op", "inputs", "out", "weights", "params"))
    if not (isinstance(op, str) and isinstance(out, str)):
        raise ModelError(f"plan step {i}: op and out must be strings")
    if not (isinstance(inputs, list) and all(isinstance(v, str) for v in inputs)):
        raise ModelError(f"plan step {i}: inputs must be a list of value names")
    if not (isinstance(weights, dict) and all(isinstance(v, str) for v in weights.values())):
        raise ModelError(f"plan step {i}: weights must map roles to tensor names")
    if not (isinstance(params, dict) and all(isinstance(v, (int, float, str)) for v in params.values())):
        raise ModelError(f"plan step {i}: params must map names to numbers or strings")
    return Step(op, tuple(inputs), out, MappingProxyType(dict(weights)), MappingProxyType(dict(params)))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("duplicate key in an object")
    return data
