# SPDX-License-Identifier: Apache-2.0
"""State dicts in .safetensors, as trainings on other machines write them: of any family, by names and shapes.

Metadata of fastsr's own trainings (name, recipe) is kept.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastsr.convert import Converted, check_file
from fastsr.convert.states import recognised
from fastsr.convert.torch_pth import plain
from fastsr.errors import InputError, ModelError

LICENCE = "Apache-2.0"  # of what our own recipes train


def read(path: Path, scale: int | None = None) -> Converted:
    """Read a state dict. Raises ModelError, one line, for what is not recognised, InputError for a model file."""
    from safetensors import safe_open

    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if "plan" in about:
                raise InputError(f"{path} is a model file already: nothing is to be converted")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, RuntimeError, TypeError) as e:
        raise _refused(path, e) from None
    except Exception as e:  # SafetensorError is of no class that can be imported without it
        if isinstance(e, InputError):
            raise
        raise _refused(path, e) from None
    found = recognised(path, plain(path, tensors), scale)
    recipe = _object(about.get("recipe", ""))
    found = replace(found, name=about.get("name", found.name), licence=about.get("licence", found.licence))
    return replace(found, recipe=recipe, licence=about.get("licence", LICENCE)) if recipe else found


def _refused(path: Path, e: Exception) -> ModelError:
    first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    return ModelError(f"{path}: refused: not a safetensors file ({first[:120]})")


def _object(text: str) -> dict[str, Any]:
    """A JSON object; an empty one where the text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
