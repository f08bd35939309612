# SPDX-License-Identifier: Apache-2.0
"""The names that RRDB's tensors have had: Real-ESRGAN's, which are ours, and ESRGAN's old and oldest ones."""

from __future__ import annotations

import re

from torch import Tensor

from fastsr.families.states import State


def known(state: State) -> bool:
    """Whether these are names of RRDB's tensors."""
    pattern = r"(body|RRDB_trunk|model\.1\.sub)\.0\.(rdb|RDB)1\.conv1(\.0)?\.weight"
    return any(re.fullmatch(pattern, name) for name in state)


def renamed(state: State) -> dict[str, Tensor]:
    """With Real-ESRGAN's names: ESRGAN's files have RRDB_trunk and HRconv, or numbers alone (model.1.sub.0.RDB1.conv1.0)."""
    top = sorted({int(m[1]) for name in state if (m := re.match(r"model\.(\d+)\.(?:weight|bias)$", name))})
    names = {"model.0": "conv_first", "trunk_conv": "conv_body", "HRconv": "conv_hr"}
    ends = [f"conv_up{i + 1}" for i in range(len(top) - 3)] + ["conv_hr", "conv_last"]
    names |= {f"model.{number}": end for number, end in zip(top[1:], ends, strict=False)}
    found = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        layer = names.get(layer, re.sub(r"^upconv(\d)$", r"conv_up\1", layer))
        if m := re.match(r"(?:RRDB_trunk|model\.1\.sub)\.(\d+)\.RDB(\d)\.(\w+)(?:\.0)?$", layer):
            layer = f"body.{m[1]}.rdb{m[2]}.{m[3]}"
        found[f"{'conv_body' if re.match(r'model.1.sub.[0-9]+$', layer) else layer}.{kind}"] = tensor
    return found
