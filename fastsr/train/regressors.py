# SPDX-License-Identifier: Apache-2.0
"""The anchored layer without a network: features, dictionary and A+ regressors, learnt in closed form (paper 000, 2.1).

The 4 filters of A+ (gradient and Laplacian, both ways) on a patch and the PCA after them are one linear map, here
composed into n1 filters of 5s x 5s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastsr.ops.conv2d import pad
from fastsr.train import data
from fastsr.train.ksvd import ksvd

NEIGHBOURS = 2048
RIDGE = 0.1
SIZES = tuple(0.98**k for k in range(12))


def derivative_taps(scale: int) -> list[list[tuple[int, int, float]]]:
    """The 4 derivative filters as (dy, dx, weight) taps: gradients and Laplacians over `scale` pixels.

    MATLAB's conv2(x, g, "same") starts at floor(k / 2) of the full result, which for the even-length x3 gradient
    gives x(i + 2) - x(i - 1); a centre one earlier costs 0.25 dB.
    """
    length = scale + 1  # of [1, 0 .. 0, -1] with scale - 1 zeros
    after = length // 2
    gradient = [(after, 1.0), (after - scale, -1.0)]
    laplacian = [(scale, 0.5), (0, -1.0), (-scale, 0.5)]
    return [
        [(0, d, w) for d, w in gradient],
        [(d, 0, w) for d, w in gradient],
        [(0, d, w) for d, w in laplacian],
        [(d, 0, w) for d, w in laplacian],
    ]


def raw_filters(scale: int) -> Tensor:  # [4 * 9 s s, 5s, 5s] float64
    """Every A+ feature before PCA as one filter of the patch and the s pixels around it."""
    m, f = 3 * scale, 5 * scale
    filters = torch.zeros(4, m, m, f, f, dtype=torch.float64)
    for k, taps in enumerate(derivative_taps(scale)):
        for i in range(m):
            for j in range(m):
                for dy, dx, w in taps:
                    filters[k, i, j, i + scale + dy, j + scale + dx] += w
    return filters.reshape(-1, f, f)


def windows(
    x: Tensor,  # [H, W]
    scale: int,
) -> Tensor:  # [P, 25 s s]
    """The 5s x 5s neighbourhood of every patch of the op's grid that lies inside the image, row by row."""
    f = 5 * scale
    found: Tensor = torch.nn.functional.unfold(x[None, None], f, stride=scale)[0].T
    return found


def learn_filters(images: Sequence[np.ndarray], scale: int, count: int) -> Tensor:  # [count, 5s, 5s]
    """PCA without mean removal over all patches of `images` (bicubic, [H, W]), composed with the derivatives."""
    raw = raw_filters(scale).flatten(1)
    moment = torch.zeros(raw.shape[1], raw.shape[1], dtype=torch.float64)
    for image in images:
        part = windows(torch.from_numpy(image), scale)
        moment += (part.T @ part).double()
    covariance = raw @ moment @ raw.T
    _, vectors = torch.linalg.eigh(covariance)
    basis: Tensor = vectors[:, -count:].flip(1)
    filters: Tensor = (basis.T @ raw).reshape(count, 5 * scale, 5 * scale).float()
    return filters


def samples(
    hr: np.ndarray,  # [H, W]
    bicubic: np.ndarray,  # [H, W]
    filters: Tensor,
    scale: int,
) -> tuple[Tensor, Tensor]:  # features [S, n1], HR residuals [S, 9 s s]
    """Feature and missing detail of every patch of one image."""
    x = torch.from_numpy(bicubic)[None, None]
    low = torch.nn.functional.conv2d(pad(x, 3 * scale, "symmetric"), filters[:, None], stride=scale)[0].flatten(1).T
    detail = pad(torch.from_numpy(hr)[None, None] - x, 2 * scale, "symmetric")
    return low, torch.nn.functional.unfold(detail, 3 * scale, stride=scale)[0].T


def draw(
    images: Sequence[np.ndarray],
    filters: Tensor,
    scale: int,
    limit: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # features [S, n1], HR residuals [S, 9 s s], S near limit at most
    """Patches of every image at the twelve sizes, thinned at random to about `limit` in all."""
    areas = [(np.array(y.shape) * size // scale + 2).prod() for y in images for size in SIZES]
    keep = min(1.0, limit / float(sum(areas)))
    lows, highs = [], []
    for y in images:
        for size in SIZES:
            low, high = samples(*data.pair(data.shrink(y, size), scale), filters, scale)
            if keep < 1:
                kept = torch.rand(len(low), generator=generator) < keep
                low, high = low[kept], high[kept]
            lows.append(low.contiguous())
            highs.append(high.contiguous())
    return torch.cat(lows), torch.cat(highs)


def learn_projections(
    low: Tensor,  # [S, n1]
    high: Tensor,  # [S, 9 s s]
    atoms: Tensor,  # [A, n1]
    progress: Callable[[str], None] = lambda line: None,
    neighbours: int = NEIGHBOURS,
) -> Tensor:  # [A, 9 s s, n1]
    """A+ regressors: per atom, ridge regression on its nearest samples, P = H L' (L L' + 0.1 I)^-1 (paper 000, Eq. 5).

    A sample and its negative are the same evidence for a linear map, so nearness is |d . l|, as at test time.
    """
    norm = low.norm(dim=1, keepdim=True)
    low = low / norm.clamp_min(1e-12)
    scale = torch.where(norm < 0.1, torch.ones_like(norm), norm)
    eye = RIDGE * torch.eye(low.shape[1], dtype=torch.float64)
    out = []
    for i, part in enumerate(torch.split(atoms, 16)):
        near = (part @ low.T).abs_().topk(min(neighbours, len(low)), dim=1, sorted=False).indices
        for rows in near:
            lo, hi = low[rows].double(), (high[rows] / scale[rows]).double()
            out.append(torch.linalg.solve(lo.T @ lo + eye, lo.T @ hi).T.float())
        if i % 8 == 0:
            progress(f"regressors {16 * i}/{len(atoms)}")
    return torch.stack(out)


def learn(
    paths: Sequence[Path],
    scale: int,
    *,
    features: int,
    atoms: int = 1024,
    limit: int = 5_000_000,
    dictionary_samples: int = 150_000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Tensor, Tensor, Tensor]:  # filters, atoms, projections
    """The whole anchored layer from HR images.

    Bit-reproducible from the seed on one machine, torch build and number of threads.
    """
    generator = torch.Generator().manual_seed(seed)
    images = [data.luma(p) for p in paths]
    pairs = [data.pair(y, scale) for y in images]
    progress(f"{len(images)} images, PCA")
    filters = learn_filters([bicubic for _, bicubic in pairs], scale, features)
    low = torch.cat([samples(*p, filters, scale)[0] for p in pairs])
    low = low[torch.randperm(len(low), generator=generator)[:dictionary_samples]]
    dictionary = ksvd(low, atoms, seed=seed, progress=progress)
    low, high = draw(images, filters, scale, limit, generator)
    progress(f"{len(low)} samples for the regressors")
    return filters, dictionary, learn_projections(low, high, dictionary, progress)
