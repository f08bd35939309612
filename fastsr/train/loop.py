# SPDX-License-Identifier: Apache-2.0
"""The training loop: a step or time budget, checkpoints that survive a kill, EMA weights, validation PSNR."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsr.errors import InputError, ModelError


@dataclass
class Schedule:
    """Adam with a cosine from `lr` to `lr_end` over `steps` or over `minutes` of training, whichever ends first.

    With `minutes` the learning rate follows the clock, so that it has come down when the time is up; only a run
    bounded by `steps` alone can be repeated bit by bit.
    """

    steps: int | None = None
    minutes: float | None = None
    lr: float = 1e-3
    lr_end: float = 1e-6
    warmup: int = 200
    ema: float = 0.999
    clip: float = 0.1
    half_until: float = 0.85
    """the part of the schedule trained in bfloat16; the rest is float32"""
    parts: int = 1
    """losses averaged into one step: small parts stay in cache"""
    check_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InputError("training has no end: give steps or minutes")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the schedule is done, 0 to 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, step: int, t: float) -> float:
        """The learning rate at step `step`, `t` of the schedule done."""
        cosine = self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * t))
        return cosine * min(1.0, (step + 1) / self.warmup)


@dataclass
class State:
    """What a checkpoint holds besides the weights."""

    step: int = 0
    seconds: float = 0.0
    psnr: float = -math.inf
    log: list[dict[str, float]] = field(default_factory=list)


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module, torch.Generator, bool], Tensor],
    validate: Callable[[nn.Module], float],
    schedule: Schedule,
    *,
    checkpoint: Path,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, State]:
    """Minimise `loss_of(model, generator, half)`; returns the EMA model and the log.

    The generator of step k depends on the seed and k only, so that an interrupted and resumed run sees the data of an
    uninterrupted one. Raises ModelError when the checkpoint is not one of this model.
    """
    state = State()
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema)  # type: ignore[no-untyped-call]
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr)
    if resume and checkpoint.exists():
        state = _load(checkpoint, model, ema, optimizer)
        progress(f"resumed at step {state.step}, {state.seconds:.0f} s")
    clock = checked = saved = time.monotonic()
    looking, sum_, count = 0.0, 0.0, 0
    while (t := schedule.progress(state.step, state.seconds)) < 1:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + state.step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(state.step, t)
        optimizer.zero_grad(set_to_none=True)
        for _ in range(schedule.parts):
            loss = loss_of(model, generator, t < schedule.half_until) / schedule.parts
            loss.backward()  # type: ignore[no-untyped-call]
            sum_ += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        ema.update_parameters(model)
        count += 1
        state.step += 1
        now = time.monotonic()
        usual = state.seconds / state.step if state.step > 50 else math.inf
        state.seconds += min(now - clock, 10 * usual + 1)  # a process that was stopped meanwhile has not learnt
        clock = now
        if now - saved > schedule.check_seconds:
            if now - checked > 9 * looking:  # a tenth of the time at most goes into looking
                _check(state, ema.module, validate, sum_ / count, schedule, progress)
                checked = clock = time.monotonic()  # and looking is not training
                looking, sum_, count = checked - now, 0.0, 0
            _save(checkpoint, model, ema, optimizer, state)
            saved = clock = time.monotonic()
    if count:
        _check(state, ema.module, validate, sum_ / count, schedule, progress)
        _save(checkpoint, model, ema, optimizer, state)
    return ema.module, state


def averaged(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged tensors of a checkpoint that `train` wrote. Raises what torch.load raises on another file."""
    saved: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["ema"]
    return {name.removeprefix("module."): value for name, value in saved.items()}


def account(command: str, seed: int, paths: Sequence[Path], state: State, **more: Any) -> dict[str, Any]:
    """What a model file says of its training: how many images of which folders, for how long, how far; and `more`."""
    return {
        "command": f"fastsr train {command}",
        "seed": seed,
        "data": dict(Counter(p.parent.name for p in paths)),
        **more,
        "steps": state.step,
        "minutes": round(state.seconds / 60, 1),
        "validation": round(state.psnr, 3),
        "torch": torch.__version__,
    }


def _check(
    state: State,
    model: nn.Module,
    validate: Callable[[nn.Module], float],
    loss: float,
    schedule: Schedule,
    progress: Callable[[str], None],
) -> None:
    state.psnr = validate(model)
    state.log.append({"step": state.step, "seconds": state.seconds, "psnr": state.psnr, "loss": loss})
    done = 100 * schedule.progress(state.step, state.seconds)
    progress(
        f"{done:3.0f} %  step {state.step}  {state.seconds:.0f} s  validation {state.psnr:.3f} dB  loss {loss:.3g}"
    )


def _save(
    path: Path,
    model: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
) -> None:
    """Write the checkpoint beside its place and rename, so that a kill leaves the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    parts: dict[str, Any] = {"model": model, "ema": ema, "optimizer": optimizer}
    torch.save({k: v.state_dict() for k, v in parts.items()} | {"state": vars(state)}, temporary)
    os.replace(temporary, path)


def _load(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        for key, part in (("model", model), ("ema", ema), ("optimizer", optimizer)):
            part.load_state_dict(saved[key])
        return State(**saved["state"])
    except Exception as e:  # torch.load raises what it likes on a broken file
        raise ModelError(
            f"{path}: not a checkpoint of this model ({type(e).__name__}): delete it or drop --resume"
        ) from e
