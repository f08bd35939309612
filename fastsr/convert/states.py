# SPDX-License-Identifier: Apache-2.0
"""State dicts -> plans: every family is asked whether it knows the tensors' names (fastsr/families)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsr.convert import Converted, scale_in
from fastsr.errors import InputError, ModelError
from fastsr.families import FAMILIES

REFUSED = {
    r"block_1\.esa\.conv1\.weight": "RLFN, whose attention (ESA) is resized from a coarse view of the whole image",
    r"block_2\.guidance_map_conv\.weight": "SPANV2, which multiplies two features",
    r".*relative_position_bias_table": "a transformer (SwinIR, HAT, DAT ...), with attention in windows",
    r".*\.lk\.conv\.weight|feats\.\d+\.channe_mixer\.0\.weight": "PLKSR, with partial convolutions and norms",
}
"""name of a tensor -> a network that we know and that plans cannot express"""


def family(name: str) -> Any:
    """The class of a family."""
    module, _, kind = FAMILIES[name].partition(":")
    return getattr(importlib.import_module(module), kind)


def recognised(
    path: Path,
    state: Mapping[str, Any],  # name -> torch tensor, plain and dense
    scale: int | None = None,  # where the tensors do not say it
) -> Converted:
    """The model that a state dict is of. Raises ModelError, one line, for none, several, or one that does not fit."""
    found = [name for name in FAMILIES if family(name).matches(state)]
    if not found:
        for pattern, network in REFUSED.items():
            if any(re.fullmatch(pattern, name) for name in state):
                raise ModelError(f"{path}: is {network}: fastsr cannot run it")
        held = ", ".join(f"{name[:60]} {list(tensor.shape)}" for name, tensor in list(state.items())[:4])
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"{path}: not recognised (it holds {held or 'no tensors'} ...): expected one of {known}")
    if len(found) > 1:
        raise ModelError(f"{path}: could be {' or '.join(found)}: expected tensors of one of them")
    arch = found[0]
    named = scale if scale is not None else scale_in(path)
    try:
        model = family(arch).from_state(state, named)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    except (KeyError, ValueError, RuntimeError, TypeError, IndexError) as e:
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        missing = f"'{e.args[0]}' is missing" if isinstance(e, KeyError) else first
        raise ModelError(f"{path}: looks like {arch} but does not fit it: {missing[:160]}") from None
    plan, weights = model.lower()
    return Converted(plan, weights, model.name, arch, model.config, "unknown", {"converted_from": path.name})
