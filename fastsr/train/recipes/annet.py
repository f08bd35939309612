# SPDX-License-Identifier: Apache-2.0
"""The recipe of ANNet (paper 000, sections 4.4 and 5.1): the anchored layer in closed form, then the integration.

1. Filters (PCA), dictionary (K-SVD) and regressors (A+) from the folder named `T91` if there is one among `data`,
   else from all images.
2. The combination of every training image, once.
3. The integration subnetwork on crops of (combination, HR), flipped and turned: Adam, cosine, EMA.

Everything is cached in `work`, so that the same command continues where it was cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsr import modelfile
from fastsr.errors import InputError
from fastsr.families.annet import FEATURES, ANNet, Integration
from fastsr.train import data as images
from fastsr.train import regressors
from fastsr.train.loop import Schedule, train

INTERIOR, BATCH = 40, 32  # HR pixels a crop teaches each way, crops a step
UNIT = 16384  # a combination goes a little beyond [0, 1]: int16 steps of 2^-14 hold it at 94 dB
STEPS = {(5, 3): 30_000, (9, 5, 5, 3): 20_000}
LR = {(5, 3): 2e-3, (9, 5, 5, 3): 1e-3}


def main(
    *,
    scale: int,
    data: Sequence[str | Path],
    val: Sequence[str | Path] = (),
    sizes: tuple[int, ...] = (5, 3),
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    work: str | Path = "train_annet",
    resume: bool = False,
    atoms: int = 1024,
    maps: int = 64,
    limit: int = 5_000_000,
    progress: Callable[[str], None] = print,
) -> Path:
    """Train ANNet for one scale; see the module's text. Returns the model file."""
    sizes = tuple(sizes)
    if scale not in FEATURES:
        raise InputError(f"annet has no recipe for scale {scale}: choose one of {sorted(FEATURES)}")
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    paths = images.files(data)
    torch.manual_seed(seed)
    model = ANNet(scale, sizes, maps, atoms)
    dictionary = _dictionary_images(paths)
    layer = _anchored_layer(
        folder / f"layer_x{scale}_{atoms}_{seed}.pt", dictionary, model, limit, seed, resume, progress
    )
    for name, tensor in layer.items():
        getattr(model, name).copy_(tensor)
    # Stored as half floats (README of weights): train on what will be run.
    model.projections.copy_(model.projections.half())
    if steps is None and minutes is None:
        steps = STEPS.get(sizes, 20_000)
    name = f"annet_{''.join(map(str, sizes))}_x{scale}" if sizes != (5, 3) else f"annet_x{scale}"
    recipe: dict[str, Any] = {
        "command": "fastsr train annet",
        "seed": seed,
        "sizes": list(sizes),
        "anchored_layer": f"{len(dictionary)} images, {atoms} atoms, up to {limit} samples, 2048 neighbours, ridge 0.1",
        "images": len(paths),
        "folders": sorted({p.parent.name for p in paths}),
        "torch": torch.__version__,
    }
    assert model.integration is not None
    model.integration.reset()
    pool = _combinations(folder / f"pool_x{scale}_{atoms}_{seed}.pt", paths, model, resume, progress)
    checks = (
        _combinations(folder / f"val_x{scale}_{atoms}_{seed}.pt", images.files(val), model, resume, progress)
        if val
        else pool[:4]
    )
    schedule = Schedule(steps=steps, minutes=minutes, lr=LR.get(sizes, 1e-3))
    trained, state = train(
        model.integration,
        lambda net, generator, half: _loss(net, pool, generator, half),
        lambda net: _psnr(net, checks),
        schedule,
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        progress=progress,
    )
    model.integration.load_state_dict(trained.state_dict())
    recipe |= {"steps": state.step, "minutes": round(state.seconds / 60, 1), "validation_psnr": round(state.psnr, 3)}
    target = Path(out or f"{name}.safetensors")
    plan, weights = model.lower()
    modelfile.write(
        target,
        plan,
        weights,
        name=name,
        arch="annet",
        config=model.config,
        licence="Apache-2.0",
        recipe=recipe,
        psnr={},
        half=("projections",),
    )
    progress(f"wrote {target}")
    return target


def _dictionary_images(paths: Sequence[Path]) -> list[Path]:
    t91 = [p for p in paths if p.parent.name == "T91"]
    return t91 or list(paths)


def _anchored_layer(
    cache: Path,
    paths: Sequence[Path],
    model: ANNet,
    limit: int,
    seed: int,
    resume: bool,
    progress: Callable[[str], None],
) -> dict[str, Tensor]:
    if resume and cache.exists():
        loaded: dict[str, Tensor] = torch.load(cache, weights_only=True)
        return loaded
    begin = time.monotonic()
    filters, atoms, projections = regressors.learn(
        paths,
        model.scale,
        features=model.filters.shape[0],
        atoms=model.atoms.shape[0],
        limit=limit,
        seed=seed,
        progress=progress,
    )
    progress(f"anchored layer learnt in {time.monotonic() - begin:.0f} s")
    layer = {"filters": filters, "atoms": atoms, "projections": projections}
    torch.save(layer, cache)
    return layer


def _combinations(
    cache: Path, paths: Sequence[Path], model: ANNet, resume: bool, progress: Callable[[str], None]
) -> list[tuple[Tensor, Tensor]]:
    """(combination, HR) of every image, [H, W] int16 of 1 / UNIT: what the integration learns from."""
    if resume and cache.exists():
        loaded: list[tuple[Tensor, Tensor]] = torch.load(cache, weights_only=True)
        return loaded
    found = []
    for i, path in enumerate(paths):
        hr, bicubic = images.pair(images.luma(path), model.scale)
        with torch.no_grad():
            y = model.combine(torch.from_numpy(bicubic)[None, None])[0, 0]
        # int16 steps of 2^-14 keep 95 dB; half floats would lose that near 1.
        found.append((_quantise(y), _quantise(torch.from_numpy(hr))))
        if i % 50 == 0:
            progress(f"combinations {i}/{len(paths)}")
    torch.save(found, cache)
    return found


def _quantise(x: Tensor) -> Tensor:
    return (x * UNIT).round().clamp(-32768, 32767).to(torch.int16)


def _loss(net: nn.Module, pool: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator, half: bool) -> Tensor:
    """Mean square error (Eq. 8) on BATCH crops that teach INTERIOR pixels each way, flipped and turned at random."""
    assert isinstance(net, Integration)
    r = net.radius
    size = INTERIOR + 2 * r
    draw = torch.randint(1 << 30, (BATCH, 4), generator=generator).tolist()
    xs, ys = [], []
    for image, top, left, turn in draw:
        x, y = pool[image % len(pool)]
        i, j = top % max(1, x.shape[0] - size + 1), left % max(1, x.shape[1] - size + 1)
        x, y = (t[i : i + size, j : j + size].rot90(turn % 4) for t in (x, y))
        if turn % 8 >= 4:
            x, y = x.flip(0), y.flip(0)
        if x.shape == (size, size):  # an image may be smaller than a crop
            xs.append(x)
            ys.append(y[r:-r, r:-r])
    out = net.interior(torch.stack(xs)[:, None].float() / UNIT, half)
    return nn.functional.mse_loss(out, torch.stack(ys)[:, None].float() / UNIT)


def _psnr(net: Integration, checks: Sequence[tuple[Tensor, Tensor]]) -> float:
    total, r = 0.0, net.radius
    with torch.no_grad():
        for x, y in checks:
            out = net.interior(x[None, None].float() / UNIT)[0, 0]
            error = (out - y[r:-r, r:-r].float() / UNIT).pow(2).mean().item()
            total += -10 * math.log10(max(error, 1e-12))
    return total / len(checks)
