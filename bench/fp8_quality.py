# SPDX-License-Identifier: Apache-2.0
"""What precision "fp8" costs in PSNR: models in fp32 and as the GPU would run them, simulated by torch on the CPU.

python bench/fp8_quality.py --data DIR [MODEL ...]    a table; all shipped models with steps in e4m3 without names

The rule is a loss of at most 0.01 dB on Set5. Simulated are the packed e4m3 numbers of the Triton kernels with the scales
of fastsr.gpu.fp8, e4m3 and fp16 where values are stored, sums in fp32.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import numpy as np
import torch

from fastsr import catalog, modelfile
from fastsr.evaluate import evaluate_folder
from fastsr.gpu import fp8
from fastsr.gpu.stages import IMAGE
from fastsr.plan import INPUT, OUTPUT, Step
from fastsr.testing import in_e4m3

RULE = 0.01


class Simulated:
    """A model by torch: `precision` fp32, fp16 or fp8."""

    def __init__(self, name: str, precision: str) -> None:
        model = modelfile.read(catalog.locate(name))
        self.name, self.plan, self.precision = model.name, model.plan, precision
        self.scale, self.domain = model.plan.scale, model.plan.domain
        self.weights = {key: torch.from_numpy(value) for key, value in model.weights.items()}
        cpu = torch.device("cpu")
        samples = fp8.samples(self.plan, self.weights, cpu) if precision == "fp8" else {}
        self.packed = {}
        for step in self.plan.steps:
            if step.out in samples:
                kernel = importlib.import_module(f"fastsr.kernels.triton.{step.op}")
                params = {**step.params, "fp8": samples[step.out]}
                self.packed[step.out] = kernel.pack(self._of(step), params, torch.float16, cpu)

    def _of(self, step: Step) -> dict[str, torch.Tensor]:
        return {role: self.weights[key] for role, key in step.weights.items()}

    def run(self, planes: np.ndarray) -> np.ndarray:
        values = {INPUT: torch.from_numpy(planes)[None]}
        with torch.no_grad():
            for step in self.plan.steps:
                values[step.out] = self._step(step, [values[name] for name in step.inputs])
        out: np.ndarray = values[OUTPUT][0].numpy()
        return out

    def _step(self, step: Step, inputs: list[torch.Tensor]) -> torch.Tensor:
        if step.out in self.packed:
            return in_e4m3(step.op, self.packed[step.out], *inputs, **step.params)  # type: ignore[arg-type]
        roles = self._of(step)
        if self.precision != "fp32":
            roles = {role: w.half().float() if w.ndim == 4 else w for role, w in roles.items()}
        out: torch.Tensor = importlib.import_module(f"fastsr.ops.{step.op}").reference(*inputs, **roles, **step.params)
        return out.half().float() if self.precision != "fp32" and out.shape[1] > IMAGE else out


def shipped() -> list[str]:
    """Models with steps that can run in e4m3."""
    plans = {info.name: modelfile.read(info.path).plan for info in catalog.models()}
    return [name for name, plan in plans.items() if any(step.op in fp8.OPS for step in plan.steps)]


@click.command()
@click.argument("models", nargs=-1)
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
def main(models: tuple[str, ...], data: Path) -> None:
    """Measure models on the images of a folder."""
    click.echo(f"| model, {data.name} | steps in e4m3 | fp32 dB | fp16 dB | fp8 dB | loss of fp8 |")
    click.echo("|---|---:|---:|---:|---:|---:|")
    for name in models or shipped():
        runs = [Simulated(name, precision) for precision in ("fp32", "fp16", "fp8")]
        found = [float(evaluate_folder(run, data)["psnr_y"]) for run in runs]
        loss = found[0] - found[2]
        count = f"{len(runs[2].packed)} of {sum(step.op in fp8.OPS for step in runs[2].plan.steps)}"
        cells = " | ".join(f"{value:.4f}" for value in found)
        click.echo(f"| {name} | {count} | {cells} | {loss:.4f}{'' if loss <= RULE else ' (too much)'} |")


if __name__ == "__main__":
    main()
