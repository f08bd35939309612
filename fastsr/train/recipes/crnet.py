# SPDX-License-Identifier: Apache-2.0
"""The recipes of CRNet-A and CRNet-B (paper 004, appendix A.4): all scales in one set of weights.

Other than the paper: A learns by mean absolute error and Adam on a cosine instead of square error and SGD at 0.1; few
crops a step, averaged weights (EMA). A smaller network is one of other `config`: {"n0": 64, "m0": 128, "steps": 15}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsr import modelfile
from fastsr.families.crnet import CRNetA, CRNetB
from fastsr.train import data as images
from fastsr.train import patches
from fastsr.train.loop import Schedule, account, train

SCALES = (2, 3, 4)
STEPS = {"a": 400_000, "b": 800_000}
CROPS = {"a": 4, "b": 1}
SIZE = {"a": 40, "b": 36}  # side of a crop of the input
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
    progress: Callable[[str], None] = print,
) -> list[Path]:
    """Train CRNet-A or CRNet-B (`kind` "a" or "b"); see the module's text. Returns a model file per scale.

    `name` (default crnet_a, crnet_b) and `out`, a folder, give the files' names: <out>/<name>_x2.safetensors.

    >>> main(kind="a", data=["T91", "BSD200"], val=["val"], minutes=60)
    """
    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(config or {})
    model = CRNetA(**sizes) if kind == "a" else CRNetB(**sizes)
    model.reset()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    paths = images.files(data)
    held = images.files(val)[:CHECKS] if val else paths[:CHECKS]
    pools = _pools(kind, paths)
    checks = [(pool.factor, pool) for pool in _pools(kind, held)]
    name = name or f"crnet_{kind}"
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)

    def loss(net: nn.Module, generator: torch.Generator, half: bool) -> Tensor:
        pool = pools[int(torch.randint(len(pools), (1,), generator=generator))]
        return patches.loss(_network(net, pool.factor), pool, generator, half, CROPS[kind], SIZE[kind])

    def validate(net: nn.Module) -> float:
        found = [patches.psnr(_network(net, factor), pool, 4) for factor, pool in checks]
        return sum(found) / len(found)

    trained, state = train(
        model,
        loss,
        validate,
        Schedule(steps or (None if minutes else STEPS[kind]), minutes, lr=5e-4, warmup=1000, clip=0.4, half_until=0.97),
        checkpoint=folder / f"{name}_{seed}.pt",
        seed=seed,
        resume=resume,
        progress=progress,
    )
    recipe = account(
        f"crnet_{kind}",
        seed,
        paths,
        state,
        started_as="bicubic" if kind == "a" else "random",
        crops_per_step=CROPS[kind],
        crop=SIZE[kind],
    )
    made = []
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


def _pools(kind: str, paths: Sequence[Path]) -> list[patches.Pool]:
    if kind == "a":
        return [patches.enlarged(paths, SCALES)]
    return [patches.small(paths, scale) for scale in SCALES]


def _network(net: nn.Module, factor: int) -> Callable[[Tensor], Tensor]:
    """A: bicubic image in, image out, of any scale; B: by the branch of `factor`."""
    if isinstance(net, CRNetA):
        return lambda x: x + net.residual(x).float()
    return lambda lr: net(lr, factor).float()
