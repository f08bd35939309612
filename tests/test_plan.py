# SPDX-License-Identifier: Apache-2.0
"""Plans as data: JSON there and back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastsr.errors import ModelError
from fastsr.plan import Plan, Step

PLAN = Plan(
    "y",
    3,
    (
        Step("resize_bicubic", ("lr",), "b", {}, {"scale": 3}),
        Step("conv2d", ("b",), "m", {"w": "w0", "b": "b0"}, {"border": "zero", "slope": 0.5}),
        Step("conv2d", ("m", "b"), "out", {"w": "w0"}, {}),
    ),
)


def test_there_and_back() -> None:
    back = Plan.from_json(PLAN.to_json())
    assert back.to_dict() == PLAN.to_dict()
    assert back.channels == 1
    assert back.tensor_names == ("b0", "w0")  # by role
    assert Plan("rgb", 2, PLAN.steps).channels == 3


def test_plans_cannot_be_changed() -> None:
    back = Plan.from_json(PLAN.to_json())
    with pytest.raises(AttributeError):
        back.scale = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        back.steps[0].params["scale"] = 2  # type: ignore[index]


def changed(**changes: Any) -> str:
    return json.dumps(PLAN.to_dict() | changes)


def step(**changes: Any) -> str:
    return changed(steps=[PLAN.to_dict()["steps"][0] | changes])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"domain": "y", "domain": "y"}', "duplicate key"),
        ("[]", "not a JSON object"),
        ("{}", "expected an object with keys"),
        (changed(extra=1), "expected an object with keys"),
        (changed(domain="xyz"), 'domain "xyz"'),
        (changed(domain=["y"]), "domain"),
        (changed(scale=0), "scale 0"),
        (changed(scale=2.0), "scale 2.0"),
        (changed(scale=True), "scale true"),
        (changed(steps=[]), "1 to 1024 steps"),
        (changed(steps={}), "1 to 1024 steps"),
        (changed(steps=[PLAN.to_dict()["steps"][0]] * 2000), "1 to 1024 steps"),
        (changed(steps=[3]), "step 0: expected an object"),
        (step(op=3), "op and out must be strings"),
        (step(inputs="lr"), "list of value names"),
        (step(weights={"w": 3}), "roles to tensor names"),
        (step(params={"scale": [3]}), "numbers or strings"),
    ],
)
def test_what_is_no_plan_is_refused_with_one_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as e:
        Plan.from_json(text)
    assert "\n" not in str(e.value)
