# SPDX-License-Identifier: Apache-2.0
"""Training: `fastsr train FAMILY` finds its recipe here. Needs the extra `train`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from fastsr.errors import DeviceError, InputError

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "annet": ("annet", {}),
    "srcnn": ("srcnn", {}),
    "btsrn": ("btsrn", {}),
    "crnet_a": ("crnet", {"kind": "a"}),
    "crnet_b": ("crnet", {"kind": "b"}),
    "span": ("span", {}),
}
"""family -> its recipe, fastsr/train/recipes/<file>.py, and what of it"""


def run(family: str, **options: Any) -> Any:
    """Train `family` by its recipe; returns the model file written, or the list of them.

    Options that are None are left out. Raises InputError for a family without a recipe, for an option that the recipe
    does not take and for one that it needs; DeviceError without torch.
    """
    if family not in RECIPES:
        raise InputError(f"there is no recipe for {family!r}: choose one of {', '.join(RECIPES)}")
    file, fixed = RECIPES[family]
    try:
        recipe = importlib.import_module(f"fastsr.train.recipes.{file}")
    except ModuleNotFoundError as e:
        raise DeviceError(f"training needs {e.name}: pip install 'fastsr[train]'") from None
    given = {name: value for name, value in options.items() if value is not None}
    takes = inspect.signature(recipe.main).parameters
    unknown = sorted(set(given) - set(takes))
    if unknown:
        raise InputError(f"the recipe of {family} takes no {unknown[0]}")
    lacking = [n for n, p in takes.items() if p.default is p.empty and n not in given and n not in fixed]
    if lacking:
        raise InputError(f"the recipe of {family} needs {lacking[0]}")
    return recipe.main(**given, **fixed)
