# SPDX-License-Identifier: Apache-2.0
"""The recipe of SPAN, made for minutes on a GPU instead of the paper's million steps.

Kernels are learnt as products of larger ones (families/span.py, Wide) and multiplied out at the end. Mean absolute error
until SQUARE_FROM of the schedule, then the square one, which is what PSNR measures; Adam on a cosine, averaged weights
(EMA), bfloat16 throughout. Features start at one level whatever the depth. x3 and x4 may begin from what is known of x2
(`start`), waiting for it if need be (`start_at`), their own preparations done meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fastsr import modelfile
from fastsr.errors import InputError, ModelError
from fastsr.families.span import Wide
from fastsr.train import data as images
from fastsr.train import patches
from fastsr.train.device import Batch, choose, compiled, place
from fastsr.train.loop import Schedule, account, averaged, train
from fastsr.train.pool import to_device

STEPS = 100_000
BATCH = {"cpu": Batch(2, 32, lr=1e-3), "cuda": Batch(16, 64, lr=8e-4)}  # sizes of crops of the LR image
LARGEST = 192  # px: side of a crop of the HR image, which small images have too
SQUARE_FROM = 0.75
SQUARE = 20.0  # makes gradients of the square error about as large as those of the absolute one, of some 0.025
CHECKS = 10  # validation images: all would take longer than they are worth


def main(
    *,
    scale: int,
    data: Sequence[str | Path],
    val: Sequence[str | Path] = (),
    steps: int | None = None,
    minutes: float | None = None,
    within: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    work: str | Path = "train_span",
    name: str | None = None,
    resume: bool = False,
    start: str | Path | None = None,
    start_at: float = 0.0,
    config: Mapping[str, int] | None = None,
    device: str = "auto",
    compile: bool | None = None,
    crops: int | None = None,
    size: int | None = None,
    lr: float | None = None,
    stop_after: float | None = None,
    progress: Callable[[str], None] = print,
) -> Path | None:
    """Train SPAN for one scale; see the module's text. Returns the file written, or None when stopped before the end.

    The file is a model file of the folded network; its PSNR is not measured yet (`fastsr convert --measure`, bench/report.py).

    `within`: minutes for all of this call, preparation included: the learning rate comes down with the clock. `start`: a
    checkpoint of another scale, whose tensors are taken over; it is read `start_at` minutes after the call, and done
    without if it is not there. `config`: arguments of the module, as {"width": 28}. `device` is auto, cpu or cuda;
    `compile` (default: on cuda) uses torch.compile; `crops`, `size` (of the LR image) and `lr` replace what BATCH has.
    After `stop_after` minutes of this call there is a checkpoint, to be gone on from with `resume`. Raises InputError for
    a scale outside 2 to 4 or folders without images.

    >>> main(scale=2, data=["T91", "photos"], val=["val"], minutes=10, out="span_x2.safetensors")
    """
    began = time.monotonic()
    if scale not in (2, 3, 4):
        raise InputError(f"span has no recipe for scale {scale}: choose one of [2, 3, 4]")
    deadline = began + 60 * stop_after if stop_after else None
    where = choose(device)
    batch = BATCH[where.type].but(crops, size, lr)
    if size is None:
        batch = replace(batch, size=min(batch.size, LARGEST // scale))
    torch.manual_seed(seed)
    model = Wide(scale, **(config or {}))
    name = name or f"span_x{scale}"
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    paths = images.files(data)
    [pool] = patches.small(paths, [scale])
    [checks] = patches.small(images.files(val)[:CHECKS], [scale]) if val else [pool.head(CHECKS)]
    model.reset(patches.example(pool, 8, batch.size))
    place(model, where)
    to_device([pool, checks], where)
    progress(f"{name}: {len(pool)} images ready after {time.monotonic() - began:.0f} s")
    fast: Callable[[Tensor], Tensor] = model
    if where.type == "cuda" if compile is None else compile:
        fast = compiled(model, [(patches.example(pool, batch.crops, batch.size),)], progress)
        model.zero_grad()
    time.sleep(max(0.0, began + 60 * start_at - time.monotonic()))
    taken = _take(model, Path(start), progress) if start else 0

    schedule = Schedule(
        steps or (None if minutes or within else STEPS),
        minutes,
        finish_by=began + 60 * within if within else None,
        lr=batch.lr,
        warmup=500,
        clip=0.5,
        half_until=SQUARE_FROM,
        check_seconds=30.0,
    )

    def loss(net: torch.nn.Module, generator: torch.Generator, early: bool) -> Tensor:
        error = patches.loss(fast, pool, generator, True, batch.crops, batch.size, square=not early)
        return error if early else SQUARE * error

    trained, state = train(
        model,
        loss,
        lambda net: patches.psnr(net, checks, scale),
        schedule,
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        deadline=deadline,
        how=batch.how(where, crop=batch.size * scale),
        progress=lambda line: progress(f"{name}: {line}"),
    )
    if not schedule.ended(state, progress):
        return None
    assert isinstance(trained, Wide)
    target = Path(out or f"{name}.safetensors")
    recipe = account(
        "span",
        seed,
        paths,
        state,
        started_as=f"{taken} tensors of {Path(start).name}" if taken and start else "bilinear",
    )
    plan, arrays = trained.fold().cpu().lower()
    about = {"name": name, "arch": "span", "licence": "Apache-2.0"}
    modelfile.write(target, plan, arrays, config=model.config, recipe=recipe, psnr={}, **about)
    progress(f"wrote {target}")
    return target


def write(target: Path, model: Wide, about: Mapping[str, object]) -> None:
    """The folded network's tensors with `about` as JSON, for `fastsr convert`; beside its place first, then renamed."""
    from safetensors.torch import save_file

    tensors = {k: v.float().cpu().contiguous() for k, v in model.fold().state_dict().items()}
    temporary = target.with_name(target.name + ".tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, temporary, {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()})
    os.replace(temporary, target)


def average(checkpoint: Path) -> Wide:
    """The averaged network, not folded yet, of a checkpoint of this recipe. Raises what torch.load raises on another file."""
    tensors = averaged(checkpoint)
    layers, wide, width = tensors["expand"].shape
    model = Wide(_scale(tensors), width, (layers - 1) // 3, wide // width)
    model.load_state_dict(tensors)
    return model


def _scale(tensors: Mapping[str, Tensor]) -> int:
    return math.isqrt(len(tensors["leave.bias"]) // 3)


def _take(model: Wide, start: Path, progress: Callable[[str], None]) -> int:
    """Take over the averaged tensors of a checkpoint; none of one that is not there."""
    if not start.exists():
        progress(f"{start} is not there: starting without")
        return 0
    try:
        saved = averaged(start)
    except Exception as e:  # torch.load raises what it likes on a broken file
        raise ModelError(f"{start}: not a checkpoint of a training ({type(e).__name__})") from e
    if "leave.bias" not in saved:
        raise ModelError(f"{start}: not a checkpoint of span")
    return model.take(saved, _scale(saved))
