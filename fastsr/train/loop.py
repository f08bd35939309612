# SPDX-License-Identifier: Apache-2.0
"""The training loop: a time budget, checkpoints that survive a kill, EMA weights, validation PSNR."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Schedule:
    """Adam with a cosine from `lr` to `lr_end` over `steps`; one `minutes` budget per call, resumed by the next."""

    steps: int
    lr: float = 1e-3
    lr_end: float = 1e-6
    warmup: int = 200
    ema: float = 0.999
    clip: float = 0.1
    bf16: bool = True
    check_every: int = 500
    minutes: float | None = None

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        t = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * t))


@dataclass
class State:
    """What a checkpoint holds besides the weights."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    log: list[dict[str, float]] = field(default_factory=list)


def train(
    model: nn.Module,
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    validate: Callable[[nn.Module], float],
    schedule: Schedule,
    *,
    checkpoint: Path,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, State]:
    """Minimise the mean square error of `model` (Eq. 8) on batches (x, y); returns the EMA model and the log.

    The batch drawn at step k depends on the seed and k only, so an interrupted and resumed run sees the same data as
    an uninterrupted one.
    """
    state = State()
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr)
    if resume and checkpoint.exists():
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        state = State(**saved["state"])
        progress(f"resumed at step {state.step}")
    begin = last_check = time.monotonic()
    loss_sum, loss_count = 0.0, 0
    while state.step < schedule.steps:
        if schedule.minutes is not None and time.monotonic() - begin > schedule.minutes * 60:
            break
        generator = torch.Generator().manual_seed(seed * 1_000_003 + state.step)
        x, y = batch(generator)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(state.step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=schedule.bf16):
            out = model(x)
        loss = nn.functional.mse_loss(out.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        ema.update_parameters(model)
        state.step += 1
        loss_sum += loss.item()
        loss_count += 1
        if state.step % schedule.check_every == 0 or state.step == schedule.steps:
            state.seconds += time.monotonic() - last_check
            last_check = time.monotonic()
            psnr = validate(ema.module)
            state.best = max(state.best, psnr)
            train_psnr = -10 * math.log10(loss_sum / loss_count)
            loss_sum, loss_count = 0.0, 0
            state.log.append({"step": state.step, "seconds": state.seconds, "psnr": psnr, "train": train_psnr})
            progress(
                f"step {state.step}/{schedule.steps}  validation {psnr:.3f} dB  training {train_psnr:.3f} dB  "
                f"{state.seconds:.0f} s"
            )
            save(checkpoint, model, ema, optimizer, state)
    save(checkpoint, model, ema, optimizer, state)
    return ema.module, state


def save(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write the checkpoint beside its place and rename, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": vars(state),
        },
        temporary,
    )
    os.replace(temporary, path)
