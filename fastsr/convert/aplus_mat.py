# SPDX-License-Identifier: Apache-2.0
"""The A+ authors' release: `Aplus_x<s>_*.mat` (regressors) and `conf_Zeyde_*_finalx<s>.mat` (PCA, dictionary).

Their features (4 derivative filters on a patch, PCA) are linear and become n1 filters of 5s x 5s. MATLAB stacks a patch
column by column; fastsr row by row. What comes out is ANNet without its integration subnetwork.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeGuard

import numpy as np

from fastsr.convert import Converted, matlab
from fastsr.errors import ModelError

WHOSE = "the A+ authors'"
LICENCE = "research use (the A+ authors' release, Timofte et al. 2014)"


def read(path: Path, scale: int | None = None) -> Converted:
    """Read regressors; their dictionary is looked for in the same folder. Raises ModelError, one line."""
    import torch

    from fastsr.families.annet import ANNet

    cells = matlab.field(path, matlab.load(path), "Aplus_PPs", WHOSE)
    while isinstance(cells, np.ndarray) and cells.dtype == object and cells.size == 1:
        cells = cells.item()
    parts = list(cells.ravel()) if isinstance(cells, np.ndarray) and cells.dtype == object else []
    if not parts or not all(_is_matrix(part) and part.shape == parts[0].shape for part in parts):
        raise ModelError(f"{path}: Aplus_PPs does not hold matrices of one size")
    projections = np.stack(parts).astype(np.float64)
    count, pixels, n1 = projections.shape
    scale = math.isqrt(pixels // 9)
    if not 2 <= scale <= 8 or 9 * scale * scale != pixels:
        raise ModelError(f"{path}: regressors of shape {projections.shape[1:]} are not those of a 3s x 3s patch")
    filters, atoms = _dictionary(path.parent, scale)
    if atoms.shape != (count, n1):
        raise ModelError(f"{path}: {count} regressors for {n1} features, but the dictionary is {atoms.shape}")
    model = ANNet(scale, (), atoms=count, features=n1)
    model.filters = torch.from_numpy(filters).float()
    model.atoms = torch.from_numpy(atoms).float()
    model.projections = torch.from_numpy(_rows(projections, 1, scale)).float()
    plan, weights = model.lower()
    recipe = {"converted_from": path.name}
    return Converted(plan, weights, f"aplus_x{scale}", "annet", model.config, LICENCE, recipe)


def _dictionary(folder: Path, scale: int) -> tuple[np.ndarray, np.ndarray]:  # [n1, 5s, 5s], [A, n1]
    from fastsr.train.regressors import raw_filters

    found = sorted(folder.glob(f"conf_*x{scale}.mat"))
    if not found:
        raise ModelError(f"{folder}: no conf_*x{scale}.mat there: put the authors' dictionary beside the regressors")
    conf = matlab.field(found[0], matlab.load(found[0]), "conf", WHOSE)
    basis, atoms = (conf.get(name) if isinstance(conf, dict) else None for name in ("V_pca", "dict_lores"))
    pixels = 9 * scale * scale
    if not (_is_matrix(basis) and _is_matrix(atoms) and basis.shape == (4 * pixels, atoms.shape[0])):
        raise ModelError(f"{found[0]}: conf.V_pca or conf.dict_lores is missing or has an unexpected shape")
    basis = _rows(basis.astype(np.float64).reshape(4, pixels, -1), 1, scale)
    atoms = atoms.astype(np.float64).T
    raw = raw_filters(scale).numpy()
    filters = np.einsum("kn,kij->nij", basis.reshape(len(raw), -1), raw)
    return filters, atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def _is_matrix(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype != object and value.ndim == 2 and value.size > 0


def _rows(a: np.ndarray, axis: int, scale: int) -> np.ndarray:
    """Reorder an axis of 9 s s patch pixels from column by column to row by row."""
    m = 3 * scale
    order = np.arange(m * m).reshape(m, m).T.ravel()
    return np.take(a, order, axis=axis)
