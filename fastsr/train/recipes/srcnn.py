# SPDX-License-Identifier: Apache-2.0
"""The recipe of SRCNN (paper 001, sections 3.2 and 4.1): mean square error on crops of (bicubic, HR).

Other than the paper: the network starts as the identity instead of noise, Adam on a cosine instead of SGD at 1e-4,
crops are flipped and turned, images weighted by the inverse of their bicubic error, weights averaged (EMA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fastsr import _core, modelfile
from fastsr.errors import InputError
from fastsr.families.srcnn import SRCNN
from fastsr.train import crops
from fastsr.train import data as images
from fastsr.train.loop import Schedule, account, train
from fastsr.train.pool import of_pairs

STEPS = 200_000
CROPS = 8
"""a step: 955 x3 after 24 minutes has 27.52 dB on validation, with 2 crops 27.46; x4 25.63 after 9, with 2 crops 25.53 after
28. Only a few minutes go further with 2 (915 x2 after 3: 30.76 dB, with 8 30.55)."""


def main(
    *,
    scale: int,
    data: Sequence[str | Path],
    val: Sequence[str | Path] = (),
    sizes: tuple[int, ...] | None = None,
    rgb: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    work: str | Path = "train_srcnn",
    resume: bool = False,
    maps: tuple[int, ...] = (),
    progress: Callable[[str], None] = print,
) -> Path:
    """Train SRCNN for one scale; see the module's text. Returns the model file.

    `sizes` default to 9-5-5; `maps` to 64-32, with more layers 64-32-16. Raises InputError for a scale outside 2 to 4
    or folders without images.

    >>> main(scale=3, data=["T91", "BSD200"], val=["photos"], minutes=10, out="srcnn_955_x3.safetensors")
    """
    sizes = tuple(sizes or (9, 5, 5))
    if scale not in (2, 3, 4):
        raise InputError(f"srcnn has no recipe for scale {scale}: choose one of [2, 3, 4]")
    if not 3 <= len(sizes) <= 4 and not maps:
        raise InputError(f"srcnn with {len(sizes)} layers has no recipe: give 3 or 4 sizes")
    torch.manual_seed(seed)
    channels = 3 if rgb else 1
    model = SRCNN(scale, sizes, maps or (64, 32, 16)[: len(sizes) - 1], channels)
    model.reset()
    paths = images.files(data)
    pool = of_pairs(_pair(p, scale, channels) for p in paths)
    checks = of_pairs(_pair(p, scale, channels) for p in images.files(val)) if val else pool.head(4)
    weights = crops.weights(pool)
    name = f"srcnn_{''.join(map(str, sizes))}{'_rgb' if rgb else ''}_x{scale}"
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    trained, state = train(
        model,
        lambda net, generator, half: crops.loss(crops.module(net), pool, weights, generator, half, CROPS),
        lambda net: crops.psnr(crops.module(net), checks),
        Schedule(steps or (None if minutes else STEPS), minutes, lr=1e-3, warmup=500, half_until=0.9),
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        how={"crops_per_step": CROPS},
        progress=progress,
    )
    model.load_state_dict(trained.state_dict())
    plan, arrays = model.lower()
    target = Path(out or f"{name}.safetensors")
    recipe = account("srcnn", seed, paths, state, started_as="bicubic")
    modelfile.write(
        target,
        plan,
        arrays,
        name=name,
        arch="srcnn",
        config=model.config,
        licence="Apache-2.0",
        recipe=recipe,
        psnr={},
    )
    progress(f"wrote {target}")
    return target


def _pair(path: Path, scale: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(bicubic, HR) of one image."""
    hr, lr = images.degrade(images.planes(path, channels), scale)
    return _core.resize_bicubic(lr, *hr.shape[1:]), hr
