# SPDX-License-Identifier: Apache-2.0
"""The training loop: a step or time budget, in pieces if need be, checkpoints that survive a kill, EMA, validation."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsr.errors import InputError, ModelError
from fastsr.train import journal
from fastsr.train.device import peak_memory

FAILURES = 3  # times that a run goes back to one checkpoint


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
    finish_by: float | None = None
    """of time.monotonic(): the end in any case, looks and checkpoints included, to which the learning rate comes down"""
    begin: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None and self.finish_by is None:
            raise InputError("training has no end: give steps or minutes")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the schedule is done, 0 to 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        by_clock = 0.0
        if self.finish_by is not None:
            by_clock = (time.monotonic() - self.begin) / max(self.finish_by - self.begin, 1e-3)
        return min(1.0, max(by_steps, by_time, by_clock))

    def ended(self, state: State, progress: Callable[[str], None]) -> bool:
        """Whether all of the schedule is done; says how to go on if it is not."""
        if self.progress(state.step, state.seconds) >= 1:
            return True
        progress(f"stopped at step {state.step}, {state.seconds / 60:.1f} minutes: --resume goes on from there")
        return False

    def rate(self, step: int, t: float) -> float:
        """The learning rate at step `step`, `t` of the schedule done."""
        cosine = self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * t))
        return cosine * min(1.0, (step + 1) / self.warmup)

    def rise(self, last: float, steps: int) -> float:
        """The most that the learning rate may be `steps` after a run was resumed whose last one was `last`.

        A larger budget than the earlier one's begins higher on its cosine: up there in steps as small as a warm-up's.
        """
        return last + (self.lr * (steps + 1) / self.warmup) * (1 + 1e-9)  # never below an unbroken warm-up


@dataclass
class State:
    """What a checkpoint holds besides the weights."""

    step: int = 0
    seconds: float = 0.0
    psnr: float = -math.inf
    log: list[dict[str, float]] = field(default_factory=list)
    rate: float = math.inf
    """the learning rate of the last step; infinite in checkpoints that do not say"""
    failures: int = 0
    """how often the loss was no number; each time the learning rate was halved"""
    how: list[dict[str, Any]] = field(default_factory=list)
    """what a step was made of, from which step on"""


class _Run:
    """What learns: the model where it lies, its average, the optimizer; and how they are kept."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.decay = schedule.ema
        self.ema = torch.optim.swa_utils.AveragedModel(model)
        self.fused = self.device.type == "cuda" or None
        self.optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr, fused=self.fused)

    def follow(self) -> None:
        """Move the average towards the model; AveragedModel.update_parameters would wait for a GPU's step to finish."""
        with torch.no_grad():
            mine: list[Tensor] = list(self.ema.module.parameters())
            its: list[Tensor] = list(self.model.parameters())
            if self.ema.n_averaged == 0:
                torch._foreach_copy_(mine, its)
            else:
                torch._foreach_lerp_(mine, its, 1 - self.decay)
        self.ema.n_averaged += 1

    def save(self, path: Path, state: State) -> None:
        """Write the checkpoint beside its place and rename, so that a kill leaves the old one or the new one."""
        temporary = path.with_suffix(".tmp")
        parts: dict[str, Any] = {"model": self.model, "ema": self.ema, "optimizer": self.optimizer}
        torch.save({k: v.state_dict() for k, v in parts.items()} | {"state": vars(state)}, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> State:
        """Raises ModelError for a file that is no checkpoint of this model."""
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            state = State(**saved["state"])
            self.ema.load_state_dict(saved["ema"])
            if "optimizer" not in saved:  # as `slim` leaves them
                self.model.load_state_dict(_inner(saved["ema"]))
                state.rate = 0.0  # moments are to be learnt anew: rise slowly
                return state
            self.model.load_state_dict(saved["model"])
            for group in saved["optimizer"]["param_groups"]:
                group["fused"] = self.fused  # the device's matter, not the checkpoint's
            self.optimizer.load_state_dict(saved["optimizer"])
            return state
        except Exception as e:  # torch.load raises what it likes on a broken file
            raise ModelError(
                f"{path}: not a checkpoint of this model ({type(e).__name__}): delete it or drop --resume"
            ) from e


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module, torch.Generator, bool], Tensor],
    validate: Callable[[nn.Module], float],
    schedule: Schedule,
    *,
    checkpoint: Path,
    seed: int = 0,
    resume: bool = False,
    deadline: float | None = None,
    how: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, State]:
    """Minimise `loss_of(model, generator, half)` where the model lies; returns the EMA model and the log.

    At `deadline`, of time.monotonic(), it stops with a checkpoint; `schedule.progress` of the state says whether that
    was the end. `how` is what the account tells of a step, "crops_per_step" among it. The generator of step k depends on
    the seed and k only, so that an interrupted and resumed run sees the data of an uninterrupted one. A loss that is no
    number sends the run back to the last checkpoint, to other crops and half the learning rate.

    Raises ModelError when the checkpoint is not one of this model, and when the loss stays no number.
    """
    state = State()
    run = _Run(model, schedule)
    safe = resume and checkpoint.exists()
    if safe:
        state = run.load(checkpoint)
        progress(f"resumed at step {state.step}, {state.seconds:.0f} s")
    first, last = state.step, state.rate
    clock = checked = saved = time.monotonic()
    sums = torch.zeros(2, device=run.device)  # of losses, of gradients' norms: read only at checks, a GPU need not wait
    looking, count, fresh, bad = 0.0, 0, state.step, 0
    spent = state.seconds
    while True:
        t = schedule.progress(state.step, state.seconds)
        late = deadline is not None and time.monotonic() > deadline and state.step > first  # a piece makes a step
        over = t >= 1 or late
        if count and (over or time.monotonic() - saved > schedule.check_seconds):
            loss, norm = (sums / count).tolist()
            _spend(state, clock)  # a GPU has had steps to finish
            if not math.isfinite(loss + norm):
                bad += 1
                state = _back(checkpoint, safe, bad, state, run, progress)
            else:
                now = time.monotonic()
                if over or now - checked > 9 * looking:  # a tenth of the time at most goes into looking
                    pace = (state.seconds - spent) / max(state.step - fresh, 1)
                    _check(state, run, validate, loss, pace, schedule, progress)
                    journal.write(checkpoint, state.log)
                    checked = time.monotonic()
                    looking = checked - now
                run.save(checkpoint, state)
                safe, bad = True, 0
            sums.zero_()
            count, fresh, spent = 0, state.step, state.seconds
            saved = clock = time.monotonic()  # looking is not training
            continue
        if over:
            break
        if not count:
            _note_how(state, how)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + state.step + (state.failures << 40))
        state.rate = min(schedule.rate(state.step, t), schedule.rise(last, state.step - first)) * 0.5**state.failures
        for group in run.optimizer.param_groups:
            group["lr"] = state.rate
        run.optimizer.zero_grad(set_to_none=True)
        for _ in range(schedule.parts):
            part = loss_of(model, generator, t < schedule.half_until) / schedule.parts
            part.backward()  # type: ignore[no-untyped-call]
            sums[0] += part.detach()
        sums[1] += nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        run.optimizer.step()
        run.follow()
        count += 1
        state.step += 1
        # A process's first step waits for compilers and tuners: it does not count.
        clock = _spend(state, clock) if state.step > first + 1 else time.monotonic()
    return run.ema.module, state


def _spend(state: State, since: float) -> float:
    """Count the time since then as training; returns now. While a process was stopped it has not learnt."""
    now = time.monotonic()
    usual = state.seconds / state.step if state.step > 50 else math.inf
    state.seconds += min(now - since, 10 * usual + 1)
    return now


def _note_how(state: State, how: Mapping[str, Any] | None) -> None:
    """Keep what a step is made of where that changes."""
    now = dict(how or {})
    before = {k: v for k, v in state.how[-1].items() if k != "from_step"} if state.how else {}
    if now != before:
        state.how.append({"from_step": state.step, **now})


def _back(
    checkpoint: Path,
    safe: bool,
    bad: int,
    state: State,
    run: _Run,
    progress: Callable[[str], None],
) -> State:
    """The state of the last checkpoint, with one failure more; `bad` is how many there were since it."""
    if not safe:
        raise ModelError(f"the loss is no number within {state.step} steps of the start: give a lower --lr")
    if bad > FAILURES:
        raise ModelError(
            f"the loss is no number after step {state.step}, {bad} times from the same checkpoint: resume with a lower --lr"
        )
    failures = state.failures + 1
    state = run.load(checkpoint)
    state.failures = failures
    progress(f"the loss is no number: back to step {state.step}, other crops and half the learning rate")
    return state


def averaged(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged tensors of a checkpoint that `train` wrote. Raises what torch.load raises on another file."""
    return _inner(torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"])


def _inner(ema: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the module within an averaged one."""
    return {k.removeprefix("module."): v.float() for k, v in ema.items() if k.startswith("module.")}


def slim(checkpoint: Path, target: Path) -> None:
    """Write an eighth of a checkpoint: the averaged tensors as half floats, and the state.

    A run resumed from it goes on from the average, with new moments and a warm-up.
    """
    saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    ema = {k: v.half() if v.is_floating_point() else v for k, v in saved["ema"].items()}
    torch.save({"ema": ema, "state": saved["state"]}, target)


def account(command: str, seed: int, paths: Sequence[Path], state: State, **more: Any) -> dict[str, Any]:
    """What a model file says of its training: how many images of which folders, for how long, how far; and `more`."""
    return {
        "command": f"fastsr train {command}",
        "seed": seed,
        "data": dict(Counter(p.parent.name for p in paths)),
        **more,
        **({k: v for k, v in state.how[-1].items() if k != "from_step" or v} if state.how else {}),
        **({"earlier": state.how[:-1]} if len(state.how) > 1 else {}),
        "steps": state.step,
        "minutes": round(state.seconds / 60, 1),
        "validation": round(state.psnr, 3),
        "torch": torch.__version__,
    }


def _check(
    state: State,
    run: _Run,
    validate: Callable[[nn.Module], float],
    loss: float,
    pace: float,  # seconds a step
    schedule: Schedule,
    progress: Callable[[str], None],
) -> None:
    state.psnr = validate(run.ema.module)
    memory = peak_memory(run.device) / 1e9
    row = {"step": state.step, "seconds": state.seconds, "psnr": state.psnr, "loss": loss, "rate": state.rate}
    state.log.append(row | {"seconds_per_step": pace, "peak_gb": memory})
    crops = state.how[-1].get("crops_per_step") if state.how else None
    done = 100 * schedule.progress(state.step, state.seconds)
    progress(
        f"{done:3.0f} %  step {state.step}  {state.seconds:.0f} s  validation {state.psnr:.3f} dB  loss {loss:.3g}  "
        f"rate {state.rate:.2g}  {1000 * pace:.1f} ms a step"
        + (f"  {crops / pace:.0f} crops/s" if crops and pace else "")
        + f"  {memory:.2f} GB"
    )
