# SPDX-License-Identifier: Apache-2.0
"""The recipe of SRCNN (paper 001, sections 3.2 and 4.1): mean square error on crops of (bicubic, HR).

Other than the paper: the network starts as the identity instead of noise, Adam on a cosine instead of SGD at 1e-4,
crops are flipped and turned, images weighted by the inverse of their bicubic error, weights averaged (EMA). On RGB, flat
colours (PALETTES) are learnt besides photos, which have no pure blue: without them it came out 42 levels off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fastsr import _core, modelfile
from fastsr.errors import InputError, ModelError
from fastsr.families.srcnn import SRCNN
from fastsr.train import crops
from fastsr.train import data as images
from fastsr.train.loop import Schedule, account, train
from fastsr.train.pool import of_pairs

STEPS = 200_000
CROPS = 8
"""a step: 955 x3 after 24 minutes has 27.52 dB on validation, with 2 crops 27.46; x4 25.63 after 9, with 2 crops 25.53 after
28. Only a few minutes go further with 2 (915 x2 after 3: 30.76 dB, with 8 30.55)."""

PALETTES = 24
"""images of squares of one colour, among those of RGB"""


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
    start: str | Path | None = None,
    progress: Callable[[str], None] = print,
) -> Path:
    """Train SRCNN for one scale; see the module's text. Returns the model file.

    `sizes` default to 9-5-5; `maps` to 64-32, with more layers 64-32-16; `start`: a model file of the same to go on from. Raises InputError for a scale outside 2 to 4
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
    if start:
        take_over(model, start)
    paths = images.files(data)
    palettes = [palette(np.random.default_rng([seed, i])) for i in range(PALETTES if rgb else 0)]
    pool = of_pairs(_pair(hr, scale) for hr in [*(images.planes(p, channels) for p in paths), *palettes])
    checks = of_pairs(_pair(images.planes(p, channels), scale) for p in images.files(val)) if val else pool.head(4)
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
    recipe = account("srcnn", seed, paths, state, started_as=f"{Path(start).name}" if start else "bicubic")
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


def take_over(model: SRCNN, start: str | Path) -> None:
    """The weights of a model file of the same layers. Raises ModelError."""
    given = modelfile.read(start)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if {name: tensor.shape for name, tensor in given.weights.items()} != own:
        raise ModelError(f"{start}: an SRCNN of other layers than those asked for")
    model.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in given.weights.items()})


def palette(generator: np.random.Generator, squares: int = 4, side: int = 48) -> np.ndarray:  # [3, H, W] in [0, 1]
    """Squares of one colour each: every third at a corner of the RGB cube, the others anywhere in it."""
    colours = generator.random((3, squares, squares))
    colours = np.where(generator.random((1, squares, squares)) < 1 / 3, np.round(colours), colours)
    found: np.ndarray = colours.repeat(side, 1).repeat(side, 2).astype(np.float32)
    return found


def _pair(hr: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:  # [C, H, W]
    """(bicubic, HR) of one image."""
    hr, lr = images.degrade(hr, scale)
    return _core.resize_bicubic(lr, *hr.shape[1:]), hr
