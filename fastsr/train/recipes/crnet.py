# SPDX-License-Identifier: Apache-2.0
"""The recipes of CRNet-A and CRNet-B (paper 004, appendix A.4): all scales in one set of weights.

Other than the paper: A learns by mean absolute error and Adam on a cosine instead of square error and SGD at 0.1;
averaged weights (EMA); few crops a step on a CPU. A smaller network is one of other `config`: {"n0": 64, "m0": 128,
"steps": 15}.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsr import modelfile
from fastsr.families.crnet import CRNetA, CRNetB
from fastsr.train import data as images
from fastsr.train import patches
from fastsr.train.device import Batch, choose, compiled, place
from fastsr.train.loop import Schedule, account, train
from fastsr.train.pool import Pool, to_device

SCALES = (2, 3, 4)
STEPS = {"a": 400_000, "b": 800_000}
BATCH = {  # sizes of crops of the input
    "a": {"cpu": Batch(4, 40, lr=5e-4), "cuda": Batch(16, 48, lr=5e-4)},
    "b": {"cpu": Batch(1, 36, lr=5e-4), "cuda": Batch(16, 54, lr=2e-4)},
}
CHECKS = 6


def main(
    *,
    kind: str = "a",
    data: Sequence[str | Path],
    val: Sequence[str | Path] = (),
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    work: str | Path = "train_crnet",
    resume: bool = False,
    name: str | None = None,
    config: Mapping[str, int] | None = None,
    device: str = "auto",
    compile: bool | None = None,
    crops: int | None = None,
    size: int | None = None,
    lr: float | None = None,
    stop_after: float | None = None,
    progress: Callable[[str], None] = print,
) -> list[Path]:
    """Train CRNet-A or CRNet-B (`kind` "a" or "b"); see the module's text. Returns a model file per scale.

    `name` (default crnet_a, crnet_b) and `out`, a folder, give the files' names: <out>/<name>_x2.safetensors. `device`
    is auto, cpu or cuda; `compile` (default: on cuda) uses torch.compile; `crops`, `size` (of the input) and `lr` replace
    what BATCH has. After `stop_after` minutes of this call there is a checkpoint, to be gone on from with `resume`, and
    no file.

    >>> main(kind="a", data=["T91", "BSD200"], val=["val"], minutes=60)
    """
    deadline = time.monotonic() + 60 * stop_after if stop_after else None
    where = choose(device)
    batch = BATCH[kind][where.type].but(crops, size, lr)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(config or {})
    model = CRNetA(**sizes) if kind == "a" else CRNetB(**sizes)
    model.reset()
    place(model, where)
    paths = images.files(data)
    held = images.files(val)[:CHECKS] if val else paths[:CHECKS]
    pools = _pools(kind, paths)
    checks = _pools(kind, held)
    to_device([*pools, *checks], where)
    name = name or f"crnet_{kind}"
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)

    half = _function(model)
    if where.type == "cuda" if compile is None else compile:
        examples = [_arguments(model, patches.example(pool, batch.crops, batch.size), pool.factor) for pool in pools]
        half = compiled(half, examples, progress)

    def loss(net: nn.Module, generator: torch.Generator, in_half: bool) -> Tensor:
        pool = pools[int(torch.randint(len(pools), (1,), generator=generator))]
        network = _network(model, pool.factor, half if in_half else _function(model))
        return patches.loss(network, pool, generator, in_half, batch.crops, batch.size)

    def validate(net: nn.Module) -> float:
        found = [patches.psnr(_network(net, pool.factor, _function(net)), pool, 4) for pool in checks]
        return sum(found) / len(found)

    schedule = Schedule(
        steps or (None if minutes else STEPS[kind]), minutes, lr=batch.lr, warmup=1000, clip=0.4, half_until=0.97
    )
    trained, state = train(
        model,
        loss,
        validate,
        schedule,
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        deadline=deadline,
        how=batch.how(where, crop=batch.size),
        progress=progress,
    )
    if not schedule.ended(state, progress):
        return []
    recipe = account(f"crnet_{kind}", seed, paths, state, started_as="bicubic" if kind == "a" else "random")
    made = []
    trained.cpu()
    for scale in SCALES:
        one = type(model)(**model.config | {"scale": scale})
        one.load_state_dict(trained.state_dict())
        plan, arrays = one.lower()
        target = Path(out or ".") / f"{name}_x{scale}.safetensors"
        modelfile.write(
            target,
            plan,
            arrays,
            name=target.stem,
            arch=f"crnet_{kind}",
            config=one.config,
            licence="Apache-2.0",
            recipe=recipe,
            psnr={},
            half=plan.tensor_names,
        )
        progress(f"wrote {target}")
        made.append(target)
    return made


def _pools(kind: str, paths: Sequence[Path]) -> list[Pool]:
    if kind == "a":
        return [patches.enlarged(paths, SCALES)]
    return patches.small(paths, SCALES)


def _function(net: nn.Module) -> Callable[..., Tensor]:
    """What of the network takes the time, and is compiled."""
    return net.residual if isinstance(net, CRNetA) else net


def _arguments(net: nn.Module, x: Tensor, factor: int) -> tuple[Any, ...]:
    """Of `_function`: A has one way for all scales, B a branch for each."""
    return (x,) if isinstance(net, CRNetA) else (x, factor)


def _network(net: nn.Module, factor: int, function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """A: bicubic image in, image out, of any scale; B: by the branch of `factor`."""
    if isinstance(net, CRNetA):
        return lambda x: x + function(x).float()
    return lambda lr: function(lr, factor).float()
