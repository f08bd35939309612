# SPDX-License-Identifier: Apache-2.0
"""The recipe of BTSRN (paper 002, sections 3.5 and 4.1): what is learnt is the difference to the bicubic image.

Other than the paper: mean absolute error instead of square, Adam on a cosine instead of decay by 0.6, averaged weights
(EMA), and what is known of another scale is a start. On a GPU the paper's batch, on a CPU smaller and fewer crops: a
step is worth what it costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fastsr import modelfile
from fastsr.errors import InputError, ModelError
from fastsr.families.btsrn import BTSRN
from fastsr.train import data as images
from fastsr.train import patches
from fastsr.train.device import Batch, choose, compiled, place
from fastsr.train.loop import Schedule, account, averaged, train
from fastsr.train.pool import to_device

STEPS = 300_000
BATCH = {"cpu": Batch(2, 72, lr=5e-4), "cuda": Batch(32, 108, lr=1e-3)}  # sizes of crops of the HR image
CHECKS = 10  # validation images: all would take longer than they are worth


def main(
    *,
    scale: int,
    data: Sequence[str | Path],
    val: Sequence[str | Path] = (),
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    work: str | Path = "train_btsrn",
    resume: bool = False,
    start: str | Path | None = None,
    config: Mapping[str, int] | None = None,
    device: str = "auto",
    compile: bool | None = None,
    crops: int | None = None,
    size: int | None = None,
    lr: float | None = None,
    stop_after: float | None = None,
    progress: Callable[[str], None] = print,
) -> Path | None:
    """Train BTSRN for one scale; see the module's text. Returns the model file, or None when stopped before the end.

    `start`: a checkpoint of another scale, whose tensors of the same name and shape are taken over. `config`: arguments
    of the module, as {"width": 64}. `device` is auto, cpu or cuda; `compile` (default: on cuda) uses torch.compile;
    `crops`, `size` (of the HR image) and `lr` replace what BATCH has. After `stop_after` minutes of this call there is a
    checkpoint, to be gone on from with `resume`. Raises InputError for a scale outside 2 to 4 or folders without images.

    >>> main(scale=3, data=["T91", "photos"], val=["val"], minutes=60, out="btsrn_x3.safetensors")
    """
    if scale not in (2, 3, 4):
        raise InputError(f"btsrn has no recipe for scale {scale}: choose one of [2, 3, 4]")
    deadline = time.monotonic() + 60 * stop_after if stop_after else None
    where = choose(device)
    batch = BATCH[where.type].but(crops, size, lr)
    torch.manual_seed(seed)
    model = BTSRN(scale, **(config or {}))
    model.reset()
    taken = take_over(model, start) if start else 0
    place(model, where)
    paths = images.files(data)
    [pool] = patches.small(paths, [scale])
    [checks] = patches.small(images.files(val)[:CHECKS], [scale]) if val else [pool.head(CHECKS)]
    to_device([pool, checks], where)
    side = batch.size // scale
    name = f"btsrn_x{scale}"
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)

    def whole(residual: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda lr: patches.enlarge(lr, scale) + residual(lr).float()

    half = model.residual
    if where.type == "cuda" if compile is None else compile:
        half = compiled(model.residual, [(patches.example(pool, batch.crops, side),)], progress)
    schedule = Schedule(
        steps or (None if minutes else STEPS), minutes, lr=batch.lr, warmup=500, clip=0.5, half_until=0.97
    )
    trained, state = train(
        model,
        lambda net, generator, in_half: patches.loss(
            whole(half if in_half else model.residual), pool, generator, in_half, batch.crops, side
        ),
        lambda net: patches.psnr(whole(net.residual), checks, scale),  # type: ignore[arg-type]
        schedule,
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        deadline=deadline,
        how=batch.how(where, crop=side * scale),
        progress=progress,
    )
    if not schedule.ended(state, progress):
        return None
    model.load_state_dict(trained.state_dict())
    plan, arrays = model.cpu().lower()
    target = Path(out or f"{name}.safetensors")
    recipe = account(
        "btsrn",
        seed,
        paths,
        state,
        started_as=f"{taken} tensors of {Path(start).name}" if start else "bicubic",
    )
    about = {"name": name, "arch": "btsrn", "licence": "Apache-2.0"}
    modelfile.write(target, plan, arrays, config=model.config, recipe=recipe, psnr={}, **about)
    progress(f"wrote {target}")
    return target


def take_over(model: nn.Module, start: str | Path) -> int:
    """Copy the averaged tensors of a checkpoint that the module has too. Returns how many."""
    try:
        saved = averaged(Path(start))
    except Exception as e:  # torch.load raises what it likes on a broken file
        raise ModelError(f"{start}: not a checkpoint of a training ({type(e).__name__})") from e
    own = model.state_dict()
    same = {k: v for k, v in saved.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(own | same)
    return len(same)
