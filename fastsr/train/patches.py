# SPDX-License-Identifier: Apache-2.0
"""What networks with zero borders learn from: images in memory as 8 bit, and the L1 loss on aligned crops of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastsr import _core
from fastsr.ops import resize_bicubic
from fastsr.train import data as images
from fastsr.train.pool import Images, Pool, quantise, sample


def small(paths: Iterable[Path], scales: Sequence[int]) -> list[Pool]:
    """RGB: a pool per scale of LR images as their 8-bit files would be, and HR, which all scales share."""
    targets = Images(3)
    pools = [Pool(scale, Images(3), targets) for scale in scales]

    def read(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
        rgb = images.planes(path, 3)
        return quantise(rgb, torch.uint8), [quantise(images.degrade(rgb, s)[1], torch.uint8) for s in scales]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # decoding and resizing hold no lock
        for rgb, small in threads.map(read, paths):
            whole = targets.add(rgb)
            for pool, lr in zip(pools, small, strict=True):
                h, w = (n * pool.factor for n in lr.shape[1:])
                pool.pairs.append((pool.inputs.add(lr), whole._replace(height=h, width=w)))
    return pools


def enlarged(paths: Iterable[Path], scales: Sequence[int]) -> Pool:
    """Y: bicubic images of every scale, and HR."""
    pool = Pool(1, Images(1, torch.int16), Images(1))
    for path in paths:
        y = images.luma(path)
        whole = pool.targets.add(y[None])
        for scale in scales:
            hr, bicubic = images.pair(y, scale)
            pool.pairs.append((pool.inputs.add(bicubic[None]), whole._replace(height=hr.shape[0], width=hr.shape[1])))
    return pool


def example(pool: Pool, count: int, size: int) -> Tensor:
    """A batch as `loss` gives it to its network."""
    return sample(pool, count, size, torch.Generator())[0]


def loss(
    network: Callable[[Tensor], Tensor],
    pool: Pool,
    generator: torch.Generator,
    half: bool,
    count: int,
    size: int,
    square: bool = False,
) -> Tensor:
    """Mean absolute (or square) error of `count` crops; with `half` the network computes in bfloat16."""
    x, y, _ = sample(pool, count, size, generator)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
        out = network(x)
    error = out.float() - y
    return error.pow(2).mean() if square else error.abs().mean()


def psnr(network: Callable[[Tensor], Tensor], checks: Pool, shave: int) -> float:
    """Mean PSNR of Y over whole images, without `shave` pixels of border."""
    total = 0.0
    with torch.no_grad(), torch.autocast(checks.inputs.device.type, dtype=torch.bfloat16):
        for i in range(len(checks)):
            x, y = checks.whole(i)
            total += psnr_y(network(x).float(), y, shave)
    return total / len(checks)


def psnr_y(
    out: Tensor,  # [1, C, H, W], Y or RGB
    hr: Tensor,  # [1, C, H, W]
    shave: int,
) -> float:
    """PSNR of Y of one image clipped to [0, 1], without `shave` pixels of border; nothing is rounded to 8 bit."""
    difference = (out.clamp(0, 1) - hr)[0, :, shave:-shave, shave:-shave]
    if len(difference) == 3:
        to_y = torch.tensor([65.481, 128.553, 24.966], device=out.device) / 255
        difference = (difference * to_y[:, None, None]).sum(0)
    return -10 * math.log10(max(difference.pow(2).mean().item(), 1e-12))


def enlarge(lr: Tensor, scale: int) -> Tensor:  # [N, C, h, w] -> [N, C, h * scale, w * scale] f32
    """Bicubic, without a gradient: by the kernel on the CPU, by two matrices elsewhere, both in fp32."""
    if lr.device.type != "cpu":
        return by_matrices(lr, scale)
    n, c, h, w = lr.shape
    flat = np.ascontiguousarray(lr.contiguous().reshape(n * c, h, w).numpy())
    return torch.from_numpy(_core.resize_bicubic(flat, h * scale, w * scale)).reshape(n, c, h * scale, w * scale)


def by_matrices(lr: Tensor, scale: int) -> Tensor:
    """`enlarge` on any device, as resize_bicubic.reference does it but with matrices that stay on the device."""
    rows, columns = (_matrix(n, scale, lr.device) for n in lr.shape[-2:])
    with torch.autocast(lr.device.type, enabled=False):
        return rows @ lr @ columns.T


@lru_cache(maxsize=256)  # a training has one size of crops, and those of its validation images
def _matrix(n: int, scale: int, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_bicubic.matrix(n, scale)).float().to(device)
