# SPDX-License-Identifier: Apache-2.0
"""Training: `fastsr train FAMILY` finds its recipe here. Needs the extra `train`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from fastsr.errors import DeviceError, InputError

RECIPES = ("annet", "srcnn")


def run(family: str, **options: Any) -> Path:
    """Train `family` by its recipe, fastsr/train/recipes/<family>.py; returns the model file written."""
    if family not in RECIPES:
        raise InputError(f"there is no recipe for {family!r}: choose one of {', '.join(RECIPES)}")
    try:
        recipe = importlib.import_module(f"fastsr.train.recipes.{family}")
    except ModuleNotFoundError as e:
        raise DeviceError(f"training needs {e.name}: pip install 'fastsr[train]'") from None
    path: Path = recipe.main(**options)
    return path
