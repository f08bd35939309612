# SPDX-License-Identifier: Apache-2.0
"""`fastsr upscale` and `fastsr plan`: options become a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from fastsr.cli_options import (
    DEFAULT_SCALE,
    default_model,
    device_option,
    json_option,
    model_option,
    parse_bytes,
    precision_option,
    scale_option,
    threads_option,
    verbose_option,
)
from fastsr.errors import InputError
from fastsr.report import note, report

if TYPE_CHECKING:
    from fastsr import Upscaler
    from fastsr.files.resize import Wish

SHIPPED_SCALES = (2, 3, 4)

outscale_option = click.option(
    "--outscale",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Any factor: the network, then exact bicubic.",
)
size_option = click.option("--size", metavar="WxH", help="Exact size of the result; 1920x or x1080 keeps proportions.")
side_option = click.option("--max-side", type=click.IntRange(1), metavar="PX", help="The longer side at most.")
limit_option = click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory of the process, as 512MB or 2G; lifts the limit on pixels. The result does not depend on it.",
)


@click.command("upscale")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="A file (replaced if it exists), a folder, a pattern such as 'out/{stem}_x{scale}.png', or - for stdout.",
)
@model_option
@scale_option
@outscale_option
@size_option
@side_option
@click.option("-f", "--format", metavar="F", help="Of results in a folder: png, jpg, webp, tif, ...  [default: png]")
@click.option("--quality", type=click.IntRange(1, 100), metavar="Q", help="Of JPEG [95], AVIF [90], WebP [lossless].")
@click.option("-r", "--recursive", is_flag=True, help="Folders within folders, too.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist in the output folder.")
@click.option("--skip-existing", is_flag=True, help="Leave files that exist in the output folder.")
@click.option(
    "--resume", is_flag=True, help="Go on where a batch stopped: results are known by the hash of what made them."
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=1, metavar="N", help="Files written at once.  [default: 1]"
)
@click.option("--no-metadata", is_flag=True, help="Drop EXIF (place, camera), text, XMP; colour profiles stay.")
@click.option(
    "--progress", type=click.Choice(["auto", "json", "none"]), default="auto", help="auto: a line on a terminal."
)
@click.option("--stats", is_flag=True, help="Say at the end where the time went.")
@threads_option
@click.option(
    "--tile",
    type=click.IntRange(1),
    metavar="PX",
    help="Side of a tile in input pixels; the result does not depend on it.",
)
@limit_option
@device_option
@click.option(
    "--executor",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, cpu, reference (torch), gpu (the faster of triton and cuda), triton, or cuda.",
)
@precision_option
@click.option("--self-ensemble", "--tta", is_flag=True, help="Mean over 8 flips and turns: better, 8 times the work.")
@verbose_option
def cmd_upscale(inputs: tuple[str, ...], output: str, **options: Any) -> None:
    """Enlarge images: files, folders, patterns, or - for stdin.

    PNG, JPEG, WebP, TIFF, BMP, PPM, GIF, AVIF and TGA in and out; DDS and JPEG 2000 in. Depth, alpha, EXIF, profiles,
    frames and pages are kept where the format holds them, and a line says where not. A bad image among several is
    reported and the others are done; the exit code says that there was one.
    """
    from fastsr import batch, image, targets
    from fastsr.files.writing import Saving
    from fastsr.progress import Progress

    image.quiet_decoders()
    wish = _wish(options["outscale"], options["size"], options["max_side"])
    model = _model(options["model"], options["scale"], wish)
    limit = _limit(options["memory_limit"])
    ending = (options["format"] or "").lower().removeprefix(".") or None
    scale = options["scale"] or _scale_of(model)
    made = targets.items(inputs, output, targets.Naming(ending, scale, model), options["recursive"])
    upscaler = _load(model, limit, options)
    wanted = batch.Options(
        wish,
        Saving(options["quality"], metadata=not options["no_metadata"]),
        limit,
        options["jobs"],
        options["overwrite"],
        options["skip_existing"],
        _made_by(upscaler, wish, options) if options["resume"] else None,
    )
    progress = Progress(len(made), options["progress"])
    work = batch.Batch(upscaler, wanted, progress, report, note)
    code = work.run(made)
    progress.clear()
    if options["stats"]:
        click.echo(f"fastsr: {work.stats.line()}", err=True)
    raise click.exceptions.Exit(code)


def _limit(text: str | None) -> int | None:
    """The bytes that the process may hold, which it is set up to keep within."""
    if not text:
        return None
    from fastsr import strips

    strips.give_back_freed()
    return parse_bytes(text)


def _wish(times: float | None, size: str | None, side: int | None) -> Wish:
    from fastsr.files.resize import Wish, parse_size

    if sum(x is not None for x in (times, size, side)) > 1:
        raise InputError("--outscale, --size and --max-side: give one of them")
    return Wish(times, parse_size(size) if size is not None else None, side)


def _model(model: str | None, scale: int | None, wish: Wish) -> str:
    if model is None and scale is None and wish.times is not None:
        scale = next((s for s in SHIPPED_SCALES if s >= wish.times), SHIPPED_SCALES[-1])
    return default_model(model, scale)


def _scale_of(model: str) -> int:
    """For names of results; the model itself is loaded when these are known to be possible."""
    from fastsr import models

    return next((m.scale for m in models() if m.name == model), DEFAULT_SCALE)


def _load(model: str, limit: int | None, options: dict[str, Any]) -> Upscaler:
    from fastsr import load, strips

    return load(
        model,
        scale=options["scale"],
        device=options["device"],
        executor=options["executor"],
        precision=options["precision"],
        threads=options["threads"],
        tile=options["tile"] if options["tile"] is not None else "auto",
        memory_limit=None if limit is None else strips.engine_share(limit, strips.resident()),
        self_ensemble=options["self_ensemble"],
    )


def _made_by(upscaler: Upscaler, wish: Wish, options: dict[str, Any]) -> str:
    """A hash of all but the input that a result's bytes depend on."""
    from fastsr import __version__, manifest

    info = upscaler.info()
    kept = ("format", "quality", "no_metadata", "self_ensemble")
    said = {key: options[key] for key in kept} | {key: info[key] for key in ("precision", "executor", "scale")}
    weights = manifest.file_hash(str(info["file"]))
    return manifest.options_hash({**said, "wish": str(wish), "weights": weights, "version": __version__})


@click.command("plan")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@model_option
@scale_option
@outscale_option
@size_option
@side_option
@click.option("-r", "--recursive", is_flag=True, help="Folders within folders, too.")
@threads_option
@limit_option
@device_option
@precision_option
@json_option
@verbose_option
def cmd_plan(inputs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show what an upscale would take: size of the result, peak memory, time."""
    from fastsr import batch, image, strips, targets
    from fastsr.errors import FastsrError

    image.quiet_decoders()
    wish = _wish(options["outscale"], options["size"], options["max_side"])
    model = _model(options["model"], options["scale"], wish)
    limit = _limit(options["memory_limit"])
    options |= {"executor": "auto", "tile": None, "self_ensemble": False}
    upscaler = _load(model, limit, options)
    wanted, base, code, rows = batch.Options(wish, memory_limit=limit), strips.resident(), 0, []
    for source in targets.sources(inputs, options["recursive"]):
        try:
            rows.append(batch.plan(source, upscaler, wanted, base))
        except (FastsrError, MemoryError) as e:
            code = report(e, source)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            w, h = row["size"]
            to = "x".join(map(str, row["result"]))
            frames = f", {row['frames']} frames" if row["frames"] > 1 else ""
            how = ", by strips" if row["strips"] else ""
            click.echo(
                f"{row['input']}: {row['format']} {w}x{h}{frames} becomes {to}: "
                f"at most {row['memory_bytes'] / 1e6:.0f} MB{how}, about {row['seconds']:.1f} s"
            )
    raise click.exceptions.Exit(code)
