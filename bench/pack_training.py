# SPDX-License-Identifier: Apache-2.0
"""What a training on a lent GPU needs, small enough to travel there and back.

python bench/pack_training.py images --data DIR... --val DIR...     carry/data/{train,val}: folders for fastsr train
python bench/pack_training.py checkpoint FILE FOLDER                in parts, a very large one without its moments
python bench/pack_training.py join FOLDER TARGET                    the checkpoints again
python bench/pack_training.py collect WORK FOLDER                   what trainings of span have come to, as tar files

Of images: a JPEG gives its window of most detail, as large a share of each as the limit allows, on the grid of its
blocks and with its own quantisation, so that coding it again changes almost nothing. Others stay whole, as lossless
WebP. The validation images are the first that recipes use, untouched.
"""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image, JpegImagePlugin

from fastsr.train import data as images

ROOT = Path(__file__).resolve().parents[1]
CARRY = ROOT / "carry"
MIB = 1 << 20
TRAVELS = 62  # MiB of working tree and carried folders; 64 is the limit
RESERVE = 15  # MiB of it for a checkpoint
GRID = 16  # px: blocks of a JPEG whose colours are halved
LEAST = 128  # px: side of the smallest window; crops of 108 x 108 are drawn from it
PART = 15 * MIB  # a file may have 16
WHOLE = 45 * MIB  # of a checkpoint; all files together may have 64


def free() -> float:
    """MiB left for images beside the working tree and a checkpoint."""
    listed = subprocess.check_output(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, text=True)
    tree = sum((ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).is_file())
    return TRAVELS - RESERVE - tree / MIB


def window(image: Image.Image, share: float) -> tuple[int, int, int, int]:
    """left, top, right, bottom of `share` of the area, where the squared gradient is largest; on GRID."""
    w, h = (max(min(LEAST, n), round(n * share**0.5 / GRID) * GRID) if share < 1 else n for n in image.size)
    if (w, h) == image.size:
        return 0, 0, w, h
    y = np.asarray(image.convert("L"), dtype=np.float64)
    detail = np.zeros_like(y)
    detail[:, 1:] += np.diff(y, axis=1) ** 2
    detail[1:] += np.diff(y, axis=0) ** 2
    total = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    corners = [(i, j) for i in range(0, image.height - h + 1, GRID) for j in range(0, image.width - w + 1, GRID)]
    i, j = max(
        corners, key=lambda c: total[c[0] + h, c[1] + w] - total[c[0], c[1] + w] - total[c[0] + h, c[1]] + total[c]
    )
    return j, i, j + w, i + h


def pack(path: Path, share: float) -> tuple[str, bytes]:
    """(suffix, bytes) of what is carried of an image."""
    with Image.open(path) as image:
        if image.format == "JPEG":
            box = window(image, share)
            if box == (0, 0, *image.size):
                return path.suffix, path.read_bytes()
            made = io.BytesIO()
            sampling = JpegImagePlugin.get_sampling(image)
            tables = image.quantization  # type: ignore[attr-defined]
            image.crop(box).save(made, "JPEG", qtables=tables, subsampling=sampling, optimize=True)
            return ".jpg", made.getvalue()
        if path.suffix.lower() == ".webp":
            return path.suffix, path.read_bytes()
        made = io.BytesIO()
        image.convert("RGB").save(made, "WebP", lossless=True, method=6)
        return ".webp", made.getvalue()


def fill(paths: Sequence[Path], target: Path, limit: float) -> tuple[float, float]:
    """Pack all of `paths` into folders of `target` with as large windows as `limit` MiB allow; returns (share, MiB)."""
    share = 1.0
    while True:
        found = {path: pack(path, share) for path in paths}
        size = sum(len(content) for _, content in found.values()) / MIB
        if size <= limit:
            break
        share *= 0.97 * limit / size
        if share < 0.05:
            raise click.ClickException(f"{limit:.1f} MiB are too few for {len(paths)} images: give fewer folders")
    for path, (suffix, content) in found.items():
        cut = share < 1 and suffix != ".webp"
        # A recipe's account counts images by folder: it is to tell that these are parts.
        folder = target / (f"{path.parent.name}_{100 * share:.0f}pc" if cut else path.parent.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.stem}{suffix}").write_bytes(content)
    return share, size


@click.group()
def main() -> None:
    """Pack images and checkpoints for a training on a lent GPU."""


@main.command("images")
@click.option("--data", multiple=True, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--val", multiple=True, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--val-images", default=10, show_default=True)
@click.option("--whole", multiple=True, type=click.Path(exists=True, path_type=Path), help="As --data, never cut.")
@click.option("--limit", type=float, help="MiB for all images.  [default: what the working tree leaves]")
@click.option("--carry", type=click.Path(path_type=Path), default=CARRY, show_default=True, help="Where `data` goes.")
def cmd_images(
    data: tuple[Path, ...],
    val: tuple[Path, ...],
    val_images: int,
    whole: tuple[Path, ...],
    limit: float | None,
    carry: Path,
) -> None:
    """Fill carry/data."""
    room = free() if limit is None else limit
    checks = images.files(val)[:val_images]
    room -= sum(path.stat().st_size for path in checks) / MIB
    target = carry / "data"
    carry.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=carry, prefix="made") as made:  # beside its place, so that it can be renamed
        uncut = fill(images.files(whole), Path(made) / "train", math.inf)[1] if whole else 0.0
        if uncut >= room:
            raise click.ClickException(f"the images of --whole are {uncut:.1f} MiB, but {room:.1f} are left")
        share, size = fill(images.files(data), Path(made) / "train", room - uncut)
        (Path(made) / "val").mkdir()
        for path in checks:
            shutil.copy(path, Path(made) / "val")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for part in Path(made).iterdir():
            part.rename(target / part.name)
    click.echo(f"{target}: {size + uncut:.1f} MiB, {100 * share:.0f} % of each JPEG's area; {len(checks)} to look at")


@main.command("checkpoint")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def cmd_checkpoint(file: Path, folder: Path) -> None:
    """Write FILE into FOLDER as <name>.0, <name>.1 ..., of at most 15 MiB each."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{file.name}.*"):
        old.unlink()
    with tempfile.TemporaryDirectory() as place:
        if file.stat().st_size > WHOLE:
            from fastsr.train.loop import slim

            slim(file, Path(place) / file.name)
            file = Path(place) / file.name
            click.echo(f"{file.name}: averaged weights only, all of it would not travel")
        content = file.read_bytes()
    for i in range(0, len(content), PART):
        (folder / f"{file.name}.{i // PART}").write_bytes(content[i : i + PART])


@main.command("join")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def cmd_join(folder: Path, target: Path) -> None:
    """Put the checkpoints in FOLDER together again, in TARGET; those that are there already stay."""
    target.mkdir(parents=True, exist_ok=True)
    for first in sorted(folder.glob("*.pt.0")):
        whole = target / first.stem
        if not whole.exists():
            parts = sorted(folder.glob(f"{first.stem}.*"), key=lambda part: int(part.suffix[1:]))
            whole.write_bytes(b"".join(part.read_bytes() for part in parts))
            click.echo(f"joined {whole}")


@main.command("collect")
@click.argument("work", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def cmd_collect(work: Path, folder: Path) -> None:
    """Put what trainings of span in WORK have come to into FOLDER: networks, logs and plots; slim checkpoints by width."""
    from fastsr.train.loop import slim
    from fastsr.train.recipes.span import average, write

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as made:
        place = Path(made)
        for checkpoint in sorted(work.glob("*_0.pt")):
            name = checkpoint.stem.removesuffix("_0")
            if not (work / f"{name}.safetensors").exists():  # not at its end yet
                write(place / f"{name}.partial.safetensors", average(checkpoint), {"name": name, "arch": "span"})
            slim(checkpoint, place / checkpoint.name)
        ends = (".safetensors", ".jsonl", ".png", ".log")
        results = [path for path in (*sorted(work.iterdir()), *sorted(place.iterdir())) if path.suffix in ends]
        small = [path for path in sorted(place.glob("*_0.pt")) if "small" in path.name]
        large = [path for path in sorted(place.glob("*_0.pt")) if "small" not in path.name]
        for name, paths in (("span", results), ("slim", large), ("slim_small", small)):
            temporary = work / f"{name}.tar.tmp"
            with tarfile.open(temporary, "w") as tar:
                for path in paths:
                    tar.add(path, path.name)
            if paths:
                shutil.copy(temporary, folder / f".{name}.tar")
                (folder / f".{name}.tar").rename(folder / f"{name}.tar")
            temporary.unlink()


if __name__ == "__main__":
    main()
