# SPDX-License-Identifier: Apache-2.0
"""What networks with zero borders learn from: images in memory as 8 bit, and the L1 loss on aligned crops of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastsr import _core
from fastsr.errors import InputError
from fastsr.train import data as images


@dataclass
class Pool:
    """Pairs of an input and its HR image, `factor` times as large. Enlarged inputs go beyond [0, 1]: int16."""

    factor: int
    inputs: list[Tensor] = field(default_factory=list)  # [C, h, w]
    targets: list[Tensor] = field(default_factory=list)  # [C, h * factor, w * factor]

    def __len__(self) -> int:
        return len(self.inputs)


def _byte(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.floor(np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8))


def _float(x: Tensor) -> Tensor:
    return x.float() / (255 if x.dtype == torch.uint8 else 16384)


def small(paths: Iterable[Path], scale: int) -> Pool:
    """RGB: LR images as their 8-bit files would be, and HR."""
    pool = Pool(scale)
    for path in paths:
        hr, lr = images.degrade(images.planes(path, 3), scale)
        pool.inputs.append(_byte(lr))
        pool.targets.append(_byte(hr))
    return pool


def enlarged(paths: Iterable[Path], scales: Sequence[int]) -> Pool:
    """Y: bicubic images of every scale, and HR."""
    pool = Pool(1)
    for path in paths:
        y = images.luma(path)
        for scale in scales:
            hr, bicubic = images.pair(y, scale)
            pool.inputs.append(torch.from_numpy(np.round(bicubic * 16384).astype(np.int16))[None])
            pool.targets.append(_byte(hr)[None])
    return pool


def sample(
    pool: Pool,
    count: int,
    size: int,  # of a crop of the input
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # [N, C, size, size], [N, C, size * factor, size * factor]
    """Crops drawn at random, flipped and turned. Images smaller than a crop are passed over."""
    f = pool.factor
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    if all(min(x.shape[1:]) < size for x in pool.inputs):
        raise InputError(f"no training image has the {size * f} x {size * f} pixels of a crop: give larger ones")
    while len(xs) < count:
        image, top, left, turn = torch.randint(1 << 30, (4,), generator=generator).tolist()
        x, y = pool.inputs[image % len(pool)], pool.targets[image % len(pool)]
        if min(x.shape[1:]) < size:
            continue
        i, j = top % (x.shape[1] - size + 1), left % (x.shape[2] - size + 1)
        x = x[:, i : i + size, j : j + size].rot90(turn % 4, (1, 2))
        y = y[:, i * f : (i + size) * f, j * f : (j + size) * f].rot90(turn % 4, (1, 2))
        if turn % 8 >= 4:
            x, y = x.flip(1), y.flip(1)
        xs.append(x)
        ys.append(y)
    batch = _float(torch.stack(xs)).contiguous(memory_format=torch.channels_last)
    return batch, _float(torch.stack(ys))


def loss(
    network: Callable[[Tensor], Tensor],
    pool: Pool,
    generator: torch.Generator,
    half: bool,
    count: int,
    size: int,
) -> Tensor:
    """Mean absolute error of `count` crops; with `half` the network computes in bfloat16."""
    x, y = sample(pool, count, size, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        out = network(x)
    return (out.float() - y).abs().mean()


def psnr(network: Callable[[Tensor], Tensor], checks: Pool, shave: int) -> float:
    """Mean PSNR of Y over whole images, without `shave` pixels of border."""
    total = 0.0
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for x, y in zip(checks.inputs, checks.targets, strict=True):
            out = network(_float(x)[None]).float()[0].clamp(0, 1)
            difference = (out - _float(y))[:, shave:-shave, shave:-shave]
            if len(difference) == 3:
                difference = torch.tensordot(torch.tensor([65.481, 128.553, 24.966]) / 255, difference, 1)
            total += -10 * math.log10(max(difference.pow(2).mean().item(), 1e-12))
    return total / len(checks)


def enlarge(lr: Tensor, scale: int) -> Tensor:  # [N, C, h, w] -> [N, C, h * scale, w * scale]
    """Bicubic, by the kernel: much faster than the reference, and no gradient is needed."""
    n, c, h, w = lr.shape
    flat = np.ascontiguousarray(lr.contiguous().reshape(n * c, h, w).numpy())
    return torch.from_numpy(_core.resize_bicubic(flat, h * scale, w * scale)).reshape(n, c, h * scale, w * scale)
