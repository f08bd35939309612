# SPDX-License-Identifier: Apache-2.0
"""The recipe of ANNet (paper 000, sections 4.4 and 5.1): the anchored layer in closed form, then the integration.

1. Filters (PCA), dictionary (K-SVD) and regressors (A+) from the folder named `T91` if there is one among `data`,
   else from all images.
2. The combination of every training image, once.
3. The integration subnetwork on crops of (combination, HR), flipped and turned: Adam, cosine, EMA. A deeper one starts
   as the 5-3 one when `work` has that already: train 5-3 first.

Everything is cached in `work`, so that the same command with `resume` continues where it was cut. Repeating bit by bit,
on one machine, torch build and number of threads: filters, dictionary and regressors always, the integration when it
is bounded by steps. With `minutes` the learning rate follows the clock.

Tried and left out: regressors from all 907 images (x3: Set5 -0.01 dB, validation +0.02 dB before the integration);
1024, 4096 or 8192 neighbours for 2048 (all worse).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsr import _core, modelfile
from fastsr.errors import InputError
from fastsr.families.annet import FEATURES, ANNet, Integration
from fastsr.train import crops, regressors
from fastsr.train import data as images
from fastsr.train.loop import Schedule, account, averaged, train
from fastsr.train.pool import Pool, of_pairs, quantise

STEPS = {(5, 3): 30_000, (9, 5, 5, 3): 20_000}


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
    work: str | Path = "train_annet",
    resume: bool = False,
    atoms: int = 1024,
    maps: int = 64,
    limit: int = 5_000_000,
    progress: Callable[[str], None] = print,
) -> Path:
    """Train ANNet for one scale; see the module's text. Returns the model file.

    `minutes` bounds the integration's training alone; without it and `steps` the recipe's number of steps is made.
    Raises InputError for a scale without recipe, folders without images, or a `work` made from other images.

    >>> main(scale=3, data=["T91", "BSD200"], val=["photos"], minutes=30, out="annet_x3.safetensors")
    """
    sizes = tuple(sizes or (5, 3))
    if rgb:
        raise InputError("annet has no recipe for RGB: it works on Y")
    if scale not in FEATURES:
        raise InputError(f"annet has no recipe for scale {scale}: choose one of {sorted(FEATURES)}")
    cache = Path(work) / f"x{scale}_{atoms}_{seed}"
    cache.mkdir(parents=True, exist_ok=True)
    paths, checked = images.files(data), images.files(val) if val else []
    _same_images(cache / "images.txt", [*paths, *checked], resume)
    torch.manual_seed(seed)
    model = ANNet(scale, sizes, maps, atoms)
    _anchored_layer(cache / "layer.pt", _dictionary_images(paths), model, limit, seed, resume, progress)
    pool = _combinations(cache / "pool.pt", paths, model, resume, progress)
    checks = _combinations(cache / "val.pt", checked, model, resume, progress) if checked else pool.head(4)
    weights = crops.weights(pool)
    assert model.integration is not None
    model.integration.reset()
    grown = len(sizes) > 2 and _grow(model.integration, cache / f"annet_x{scale}.pt")
    name = f"annet_x{scale}" if sizes == (5, 3) else f"annet_{''.join(map(str, sizes))}_x{scale}"
    trained, state = train(
        model.integration,
        lambda net, generator, half: crops.loss(crops.module(net), pool, weights, generator, half),
        lambda net: crops.psnr(crops.module(net), checks),
        _schedule(sizes, steps, minutes),
        checkpoint=cache / f"{name}.pt",
        seed=seed,
        resume=resume,
        how={"crops_per_step": crops.PART * crops.PARTS},
        progress=progress,
    )
    model.integration.load_state_dict(trained.state_dict())
    recipe = account(
        "annet",
        seed,
        paths,
        state,
        anchored_layer=f"{len(_dictionary_images(paths))} images, up to {limit} samples, 2048 neighbours, ridge 0.1",
        started_as="5-3, trained" if grown else "the combination",
    )
    return _write(Path(out or f"{name}.safetensors"), model, name, recipe, progress)


def _grow(net: Integration, checkpoint: Path) -> bool:
    """Make `net` compute what the trained 5-3 network in `checkpoint` does; False when there is none that fits.

    Relu of relu is relu, so layers in between may start as the identity; a little noise tells their taps apart.
    """
    if not checkpoint.exists():
        return False
    shallow = averaged(checkpoint)
    first, *between, last = net.layers
    k, maps = first.kernel_size[0], first.out_channels
    if k < 5 or shallow["convs.0.weight"].shape[0] != maps or last.kernel_size[0] != 3:
        return False
    with torch.no_grad():
        for conv in (first, *between):
            conv.weight *= 0.1
        first.weight[..., k // 2 - 2 : k // 2 + 3, k // 2 - 2 : k // 2 + 3] = shallow["convs.0.weight"]
        first.bias = nn.Parameter(shallow["convs.0.bias"])
        for conv in between:
            r = conv.kernel_size[0] // 2
            conv.weight[:, :, r, r] += torch.eye(maps)
        last.weight.copy_(shallow["convs.1.weight"])
        last.bias = nn.Parameter(shallow["convs.1.bias"])
    return True


def _schedule(sizes: tuple[int, ...], steps: int | None, minutes: float | None) -> Schedule:
    if steps is None and minutes is None:
        steps = STEPS.get(sizes, 20_000)
    deep = len(sizes) > 2  # bfloat16 pays where most of the work lies between two wide layers
    return Schedule(steps, minutes, lr=4e-4 if deep else 2e-3, parts=crops.PARTS, half_until=0.97 if deep else 0.85)


def _write(target: Path, model: ANNet, name: str, recipe: dict[str, Any], progress: Callable[[str], None]) -> Path:
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


def _same_images(listing: Path, paths: Sequence[Path], resume: bool) -> None:
    """Caches are of the images they were made from. Raises InputError when a resumed run is given others."""
    text = "".join(f"{p.parent.name}/{p.name} {p.stat().st_size}\n" for p in paths)
    if resume and listing.exists() and listing.read_text() != text:
        raise InputError(f"{listing.parent} was made from other images: drop --resume or give another --work")
    listing.write_text(text)


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
) -> None:
    """Learn filters, atoms and projections into `model`, or read them from `cache`."""
    if resume and cache.exists():
        layer: dict[str, Tensor] = torch.load(cache, weights_only=True)
    else:
        begin = time.monotonic()
        n1, atoms = model.filters.shape[0], model.atoms.shape[0]
        found = regressors.learn(
            paths, model.scale, features=n1, atoms=atoms, limit=limit, seed=seed, progress=progress
        )
        progress(f"anchored layer learnt in {time.monotonic() - begin:.0f} s")
        layer = dict(zip(("filters", "atoms", "projections"), found, strict=True))
        torch.save(layer, cache)
    model.filters.copy_(layer["filters"])
    model.atoms.copy_(layer["atoms"])
    # The model file holds them as half floats: train on what will be run.
    model.projections.copy_(layer["projections"].half())


def _combinations(
    cache: Path, paths: Sequence[Path], model: ANNet, resume: bool, progress: Callable[[str], None]
) -> Pool:
    """(combination, HR) of every image: what the integration learns from."""
    if resume and cache.exists():
        loaded: list[tuple[Tensor, Tensor]] = torch.load(cache, weights_only=True)
        return of_pairs((x[None].numpy(), y[None].numpy()) for x, y in loaded)
    layer = ANNet(model.scale, (), atoms=model.atoms.shape[0], features=model.filters.shape[0])
    layer.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("integration")})
    plan, weights = layer.lower()
    session = _core.Session(plan.to_dict(), weights)
    found = []
    for i, path in enumerate(paths):
        hr, lr = images.degrade(images.luma(path), model.scale)
        found.append((quantise(session.run(lr[None])[0], torch.int16), quantise(hr, torch.int16)))
        if i % 50 == 0:
            progress(f"combinations {i}/{len(paths)}")
    torch.save([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in found], cache)
    return of_pairs((x[None], y[None]) for x, y in found)
