# SPDX-License-Identifier: Apache-2.0
"""Reading MATLAB files: what the readers of authors' releases share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastsr.errors import ModelError


def load(path: Path) -> dict[str, Any]:
    """The variables of a .mat file. Raises ModelError, one line."""
    from scipy.io import loadmat

    try:
        data: dict[str, Any] = loadmat(path)
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from None
    except Exception as e:  # loadmat raises what it likes on a broken file
        raise ModelError(f"{path}: not a MATLAB file ({type(e).__name__}: {e})") from None
    return data


def field(path: Path, data: dict[str, Any], name: str, whose: str) -> np.ndarray:
    """One variable. Raises ModelError when it is missing."""
    if name not in data:
        raise ModelError(f"{path}: holds no '{name}': not {whose} file")
    found: np.ndarray = data[name]
    return found
