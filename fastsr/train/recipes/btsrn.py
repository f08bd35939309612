# SPDX-License-Identifier: Apache-2.0
"""The recipe of BTSRN (paper 002, sections 3.5 and 4.1): what is learnt is the difference to the bicubic image.

Other than the paper: mean absolute error instead of square, crops of 72 x 72 and few a step (a step is worth what it
costs), Adam on a cosine instead of decay by 0.6, averaged weights (EMA), and what is known of another scale is a start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fastsr import modelfile
from fastsr.errors import InputError, ModelError
from fastsr.families.btsrn import BTSRN
from fastsr.train import data as images
from fastsr.train import patches
from fastsr.train.loop import Schedule, account, averaged, train

STEPS = 300_000
CROPS, SIZE = 2, 72  # a step; side of a crop of the HR image
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
    progress: Callable[[str], None] = print,
) -> Path:
    """Train BTSRN for one scale; see the module's text. Returns the model file.

    `start`: a checkpoint of another scale, whose tensors of the same name and shape are taken over. `config`: arguments
    of the module, as {"width": 64}. Raises InputError for a scale outside 2 to 4 or folders without images.

    >>> main(scale=3, data=["T91", "photos"], val=["val"], minutes=60, out="btsrn_x3.safetensors")
    """
    if scale not in (2, 3, 4):
        raise InputError(f"btsrn has no recipe for scale {scale}: choose one of [2, 3, 4]")
    torch.manual_seed(seed)
    model = BTSRN(scale, **(config or {}))
    model.reset()
    taken = take_over(model, start) if start else 0
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    paths = images.files(data)
    pool = patches.small(paths, scale)
    checks = patches.small(images.files(val)[:CHECKS], scale) if val else pool
    name = f"btsrn_x{scale}"
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)

    def whole(net: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda lr: patches.enlarge(lr, scale) + net.residual(lr).float()  # type: ignore[operator]

    trained, state = train(
        model,
        lambda net, generator, half: patches.loss(whole(net), pool, generator, half, CROPS, SIZE // scale),
        lambda net: patches.psnr(whole(net), checks, scale),
        Schedule(steps or (None if minutes else STEPS), minutes, lr=5e-4, warmup=500, clip=0.5, half_until=0.97),
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        progress=progress,
    )
    model.load_state_dict(trained.state_dict())
    plan, arrays = model.lower()
    target = Path(out or f"{name}.safetensors")
    recipe = account(
        "btsrn",
        seed,
        paths,
        state,
        started_as=f"{taken} tensors of {Path(start).name}" if start else "bicubic",
        crops_per_step=CROPS,
        crop=SIZE,
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
