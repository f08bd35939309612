# SPDX-License-Identifier: Apache-2.0
"""How sparse CRNet's codes are, and how fast they settle: what skipping zeros or stopping early could save.

python bench/sparsity.py MODEL --data DIR    a table, and docs/sparsity_<model>.png

For each recursion k: the share of zeros in z_k; the share of pixels at which a whole block of 16, 32 or 64 codes is
zero; |z_k - z_k-1| / |z_k|; and the PSNR of the network if it stopped there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from fastsr import catalog, modelfile
from fastsr.families.crnet import CRNetA, CRNetB
from fastsr.ops import conv2d
from fastsr.train import data as images
from fastsr.train.patches import psnr_y

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = (16, 32, 64)


def network(path: Path) -> CRNetA | CRNetB:
    """The module of a model file, with its weights; other scales' branches stay empty."""
    found = modelfile.read(path)
    config = dict(found.json("config"))
    if found.meta["arch"] == "crnet_b":
        config["scales"] = [config["scale"]]
    model: CRNetA | CRNetB = (CRNetA if found.meta["arch"] == "crnet_a" else CRNetB)(**config)
    state = {name: torch.from_numpy(value) for name, value in found.weights.items() if name != "less"}
    model.load_state_dict(state)
    return model.eval()


def codes(model: CRNetA | CRNetB, x: torch.Tensor) -> list[torch.Tensor]:
    """z_0, z_1, ..."""
    body = model.body
    y = body.f1(x).relu()
    fixed = body.wl(y)
    found = [fixed.relu()]
    for _ in range(body.steps):
        found.append(conv2d.reference(found[-1], fixed, w=body.s.weight, activation="relu", sum_inside=True))
    return found


def measure(model: CRNetA | CRNetB, path: Path) -> list[dict[str, float]]:
    """A row per recursion for one image."""
    scale = model.scale
    y_only = isinstance(model, CRNetA)
    planes = images.luma(path)[None] if y_only else images.planes(path, 3)
    hr, lr = images.degrade(planes, scale)
    x = torch.from_numpy(lr)[None]
    if y_only:
        from fastsr.ops import resize_bicubic

        base = resize_bicubic.reference(x, scale=scale)
        features = model.f0(base).relu()
    else:
        base = model.head(x - model.mean[:, None, None])
        features = model.before[str(scale)](base)
    rows = []
    before = None
    for z in codes(model, features):
        row: dict[str, float] = {"zeros": (z == 0).float().mean().item()}
        for size in BLOCKS:
            blocks = z.reshape(1, -1, size, *z.shape[2:]).amax(2) == 0
            row[f"block {size}"] = blocks.float().mean().item()
        row["change"] = ((z - before).norm() / z.norm()).item() if before is not None else math.nan
        row["psnr"] = psnr_y(finish(model, z, base), torch.from_numpy(hr)[None], scale)
        before = z
        rows.append(row)
    return rows


def finish(model: CRNetA | CRNetB, z: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The image of codes."""
    maps = model.body.wh(z)
    if isinstance(model, CRNetA):
        return base + model.h(maps.relu())
    x = maps + base
    for conv, factor in zip(model.up[str(model.scale)], model.factors(model.scale), strict=True):
        x = torch.nn.functional.pixel_shuffle(conv(x), factor)
    return model.tail[str(model.scale)](x) + model.mean[:, None, None]


def plot(rows: list[dict[str, float]], name: str, target: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    k = range(len(rows))
    for key in ("zeros", *(f"block {size}" for size in BLOCKS)):
        left.plot(k, [100 * row[key] for row in rows], label=key)
    left.set_ylabel("% zero")
    left.set_ylim(0, 100)
    left.legend(fontsize=8)
    middle.semilogy(k, [row["change"] for row in rows])
    middle.set_ylabel("|z_k - z_k-1| / |z_k|")
    right.plot(k, [row["psnr"] for row in rows])
    right.set_ylabel("PSNR if stopped there, dB")
    for axes in (left, middle, right):
        axes.set_xlabel("recursion k")
    figure.suptitle(name, fontsize=10)
    figure.savefig(target, dpi=110)


@click.command()
@click.argument("model")
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
def main(model: str, data: Path) -> None:
    """Measure a CRNet model on the images of a folder."""
    path = catalog.locate(model)
    net = network(path)
    with torch.no_grad():
        found = [measure(net, image) for image in images.files([data])]
    rows: list[dict[str, Any]] = [
        {key: float(np.mean([one[k][key] for one in found])) for key in found[0][0]} for k in range(len(found[0]))
    ]
    click.echo("  k  " + "  ".join(f"{key:>9}" for key in rows[0]))
    for k, row in enumerate(rows):
        cells = [f"{100 * v:8.1f}%" if key.startswith(("zeros", "block")) else f"{v:9.4f}" for key, v in row.items()]
        click.echo(f"{k:3}  " + "  ".join(cells))
    target = ROOT / "docs" / f"sparsity_{path.stem}.png"
    plot(rows, f"{path.stem} on {data.name}", target)
    click.echo(f"wrote {target}")


if __name__ == "__main__":
    main()
