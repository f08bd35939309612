# SPDX-License-Identifier: Apache-2.0
"""What families share to recognise and take over state dicts.

A family's class has `matches(state)`, by names and numbers of dimensions, and `from_state(state, scale)`, which raises
ValueError for tensors that do not fit; fastsr/convert/states.py asks all of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def filled(
    make: Callable[[], Model],
    state: State,
) -> Model:
    """The module that `make` makes, with these tensors; nothing is allocated before names and shapes are known to fit."""
    with torch.device("meta"):
        wanted = {name: list(tensor.shape) for name, tensor in make().state_dict().items()}
    for name in [*wanted, *state]:
        if name not in state:
            raise ValueError(f"'{name}' is missing")
        if name not in wanted:
            raise ValueError(f"'{name}' is one too many")
        if list(state[name].shape) != wanted[name]:
            raise ValueError(f"'{name}' has shape {list(state[name].shape)}, expected {wanted[name]}")
    model = make()
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval()


def numbered(state: State, pattern: str) -> int:
    """How many there are of names like `pattern`, a regular expression whose group is a number from 0 (or 1) on."""
    found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    return len(found)


def side_of(channels: int, planes: int) -> int:
    """s of an output of planes s^2 channels. Raises ValueError where there is none."""
    s = math.isqrt(max(channels, 0) // planes)
    if s < 1 or planes * s * s != channels:
        raise ValueError(f"{channels} channels before the shuffle are not {planes} times a square")
    return s
