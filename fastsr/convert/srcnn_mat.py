# SPDX-License-Identifier: Apache-2.0
"""The SRCNN authors' release: `<sizes>_<data>_x<s>.mat` with weights_conv1..3 and biases_conv1..3.

conv1 [f1 f1, n1], conv2 [n1, f2 f2, n2], conv3 [n2, f3 f3]; filters are stacked column by column and correlated
(imfilter), with replicated borders.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fastsr.convert import Converted, matlab, scale_of
from fastsr.errors import ModelError

LICENCE = "research use (the SRCNN authors' release, Dong et al. 2014)"


def read(path: Path, scale: int | None = None) -> Converted:
    """Read a checkpoint; the scale is `scale` or the _x2, _x3, _x4 of its name. Raises ModelError, one line."""
    import torch

    from fastsr.families.srcnn import SRCNN

    data = matlab.load(path)
    w1, w2, w3, b1, b2, b3 = (
        matlab.numbers(path, data, f"{kind}_conv{i}", "the SRCNN authors'").astype(np.float32)
        for kind in ("weights", "biases")
        for i in (1, 2, 3)
    )
    try:
        taps1, n1 = w1.shape
        _, taps2, n2 = w2.shape
        taps3 = w3.size // n2
        sizes = [math.isqrt(t) for t in (taps1, taps2, taps3)]
        shapes = [(taps1, n1), (n1, taps2, n2), (n2, taps3)]
        if any(k * k != t or k % 2 == 0 for k, t in zip(sizes, (taps1, taps2, taps3), strict=True)):
            raise ValueError
        if [a.shape for a in (w1, w2)] != shapes[:2] or [b.size for b in (b1, b2, b3)] != [n1, n2, 1]:
            raise ValueError
        w3 = w3.reshape(n2, taps3)
    except ValueError:
        raise ModelError(f"{path}: weights_conv1..3 do not have the shapes of SRCNN's three layers") from None
    f1, f2, f3 = sizes
    # [.., column * f + row] -> [.., row, column]
    weights = [
        w1.T.reshape(n1, 1, f1, f1).swapaxes(2, 3),
        w2.transpose(2, 0, 1).reshape(n2, n1, f2, f2).swapaxes(2, 3),
        w3.reshape(1, n2, f3, f3).swapaxes(2, 3),
    ]
    model = SRCNN(scale_of(path, scale), sizes, (n1, n2))
    for conv, w, b in zip(model.layers, weights, (b1, b2, b3), strict=True):
        conv.weight.data = torch.from_numpy(np.ascontiguousarray(w))
        conv.bias.data = torch.from_numpy(b.ravel().copy())  # type: ignore[union-attr]
    plan, arrays = model.lower()
    name = f"srcnn_{f1}{f2}{f3}_x{model.scale}"
    return Converted(plan, arrays, name, "srcnn", model.config, LICENCE, {"converted_from": path.name})
