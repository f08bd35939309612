# SPDX-License-Identifier: Apache-2.0
"""Dictionary learning: K-SVD with batch orthogonal matching pursuit (paper 000, Eq. 1-2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BATCH = 8192


def omp(
    x: Tensor,  # [S, n] signals
    atoms: Tensor,  # [A, n] unit rows
    sparsity: int,
) -> tuple[Tensor, Tensor]:  # indices [S, sparsity], coefficients [S, sparsity]
    """Orthogonal matching pursuit, Eq. 1: greedily the atom of largest |correlation|, then least squares on all chosen.

    Signals go through in batches; the least squares read the Gram matrix, which is computed once (batch OMP).
    """
    gram = atoms @ atoms.T
    indices, coefficients = [], []
    for part in torch.split(x, BATCH):
        first = left = part @ atoms.T
        chosen = torch.empty(len(part), 0, dtype=torch.long)
        solution = torch.empty(len(part), 0)
        for step in range(sparsity):
            if step:
                # n is far below the number of atoms: correlating the residual anew is cheaper than updating by Gram rows.
                left = (part - (solution[:, :, None] * atoms[chosen]).sum(1)) @ atoms.T
            # An atom chosen before has no correlation left but rounding: keep it out.
            left = left.abs().scatter_(1, chosen, -1.0)
            chosen = torch.cat([chosen, left.argmax(1, keepdim=True)], 1)
            sub = gram[chosen[:, :, None], chosen[:, None, :]] + 1e-6 * torch.eye(step + 1)
            solution = torch.linalg.solve(sub, first.gather(1, chosen).unsqueeze(2)).squeeze(2)
        indices.append(chosen)
        coefficients.append(solution)
    return torch.cat(indices), torch.cat(coefficients)


def ksvd(
    x: Tensor,  # [S, n] signals
    count: int,
    *,
    sparsity: int = 3,
    iterations: int = 20,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Tensor:  # [count, n] unit rows
    """Learn a dictionary (Eq. 2): alternate sparse coding and, atom by atom, a rank-one fit of what it must explain."""
    generator = torch.Generator().manual_seed(seed)
    norms = x.norm(dim=1)
    usable = torch.nonzero(norms > 1e-6).squeeze(1)
    picked = usable[torch.randperm(len(usable), generator=generator)[:count]]
    atoms = torch.nn.functional.normalize(x[picked])
    for iteration in range(iterations):
        index, weight = omp(x, atoms, sparsity)
        residual = x - torch.stack([atoms[index[:, j]] * weight[:, j : j + 1] for j in range(sparsity)]).sum(0)
        progress(f"K-SVD {iteration + 1}/{iterations}: error {residual.pow(2).mean().sqrt():.6f}")
        order = torch.argsort(index.flatten(), stable=True)
        bounds = torch.bincount(index.flatten(), minlength=count).cumsum(0).tolist()
        flat = weight.flatten()
        worst = torch.argsort(residual.norm(dim=1), descending=True)
        unused = 0
        for a in range(count):
            users = order[bounds[a - 1] if a else 0 : bounds[a]]
            if len(users) == 0:  # an atom nobody uses becomes the signal explained worst
                atoms[a] = torch.nn.functional.normalize(x[worst[unused]], dim=0)
                unused += 1
                continue
            rows = users // sparsity
            g = flat[users]
            part = residual[rows] + g[:, None] * atoms[a]
            d = torch.nn.functional.normalize(part.T @ g, dim=0)  # one power step of the SVD of `part`
            g = part @ d
            atoms[a], flat[users] = d, g
            residual[rows] = part - g[:, None] * d
    return atoms
