# SPDX-License-Identifier: Apache-2.0
"""The shell: one function per sub-command, no logic. Every error is one line and a non-zero exit; -v gives the trace."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from fastsr.cli_options import (
    DEFAULT_SCALE,
    default_model,
    device_option,
    json_option,
    model_option,
    precision_option,
    scale_option,
    threads_option,
    verbose_option,
)
from fastsr.cli_upscale import cmd_plan, cmd_upscale
from fastsr.errors import InputError
from fastsr.report import catch_signals, report


def main() -> None:
    """Entry point of the `fastsr` command."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of torch and Pillow: an error is one line
    catch_signals()
    if sys.argv[1:2] == ["-i"]:  # as wrappers of *-ncnn-vulkan call it
        from fastsr import ncnn

        ncnn.main()
    try:
        code = cli.main(prog_name="fastsr", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: say nothing at exit either
        code = 141
    except (Exception, KeyboardInterrupt) as e:
        code = report(e)
    sys.exit(code or 0)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fastsr", message="fastsr %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show the trace of an error.")
def cli(verbose: bool) -> None:
    """Enlarge images with published super-resolution networks, fast."""


cli.add_command(cmd_upscale)
cli.add_command(cmd_plan)


@cli.command("models")
@json_option
@verbose_option
def cmd_models(as_json: bool) -> None:
    """List the models in the box with their measured PSNR."""
    from fastsr import models

    if as_json:
        _print_json([{**vars(m), "path": str(m.path)} for m in models()])
        return
    click.echo(f"{'name':16} {'scale':5} {'size':>8}  mean PSNR of Y (dB)")
    for m in models():
        figures = "  ".join(f"{name} {value:.2f}" for name, value in m.psnr.items())
        click.echo(f"{m.name:16} x{m.scale:<4} {m.bytes / 1e6:6.1f} MB  {figures}")


@cli.command("info")
@click.argument("model")
@scale_option
@device_option
@precision_option
@json_option
@verbose_option
def cmd_info(model: str, scale: int | None, device: str, precision: str, as_json: bool) -> None:
    """Show what a model is and which step runs where."""
    from fastsr import load

    upscaler = load(model, scale=scale, device=device, precision=precision)
    info = upscaler.info()
    steps = upscaler.explain(360, 640)
    if as_json:
        _print_json({**info, "steps": steps})
        return
    for key, value in info.items():
        click.echo(f"{key:14} {json.dumps(value) if isinstance(value, dict) else value}")
    click.echo("\nfor an input of 640x360:")
    for row in steps:
        click.echo(
            f"  {row['op']:20} {'x'.join(map(str, row['shape'])):>14}  {row['flops'] / 1e9:8.2f} GFLOP  {row['who']}"
        )


@cli.command("eval")
@model_option
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A folder of HR images, or of such folders."
)
@scale_option
@threads_option
@device_option
@precision_option
@click.option("--self-ensemble", is_flag=True, help="Mean over 8 flips and turns.")
@json_option
@verbose_option
def cmd_eval(
    model: str | None,
    data: Path,
    scale: int | None,
    threads: int | None,
    device: str,
    precision: str,
    self_ensemble: bool,
    as_json: bool,
) -> None:
    """Measure PSNR and SSIM of Y; LR images are made by MATLAB bicubic. Model "bicubic" is the baseline."""
    from fastsr import image, load
    from fastsr.evaluate import evaluate
    from fastsr.evaluate.protocol import Bicubic

    image.quiet_decoders()
    runs = (
        Bicubic(scale or DEFAULT_SCALE)
        if model == "bicubic"
        else load(
            default_model(model, scale),
            scale=scale,
            threads=threads,
            device=device,
            precision=precision,
            self_ensemble=self_ensemble,
        )
    )
    rows = evaluate(runs, data)
    if as_json:
        _print_json(rows[0] if len(rows) == 1 else rows)
        return
    for r in rows:
        click.echo(
            f"{r['model']:16} x{r['scale']}  {r['data']:10} {r['images']:4} images  "
            f"PSNR {float('inf') if r['psnr_y'] is None else r['psnr_y']:.2f} dB  SSIM {r['ssim_y']:.4f}  {r['seconds']:.2f} s"
        )


@cli.command("bench")
@model_option
@click.option("--size", default="640x360", show_default=True, metavar="WxH", help="Size of the input.")
@threads_option
@click.option("--precision", default="fp32", show_default=True)
@click.option("--engines", help="Comma-separated; default: all that are installed.")
@click.option("--seconds", default=10.0, show_default=True, help="Time to spend measuring.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also write a bar chart to this file.")
@json_option
@verbose_option
def cmd_bench(
    model: str | None,
    size: str,
    threads: int | None,
    precision: str,
    engines: str | None,
    seconds: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time a model against other engines: interleaved in one run, outputs compared first."""
    from fastsr import benchmark

    report = benchmark.run(
        default_model(model, None),
        size=_size(size),
        threads=threads,
        precision=precision,
        engines=engines.split(",") if engines else None,
        seconds=seconds,
        plot=plot,
    )
    if as_json:
        _print_json(report)
        return
    click.echo(
        f"{report['model']} from {size}, {report['threads']} threads, {report['precision']}, FMA peak {report['peak_gflops']:.0f} GFLOP/s"
    )
    for row in report["results"]:
        click.echo(
            f"  {row['engine']:20} {row['ms_median']:9.1f} ms median  {row['ms_min']:9.1f} ms min  {row['mpix_per_s']:7.2f} Mpx/s out"
        )
    if report["best_peer"]:
        click.echo(f"  {report['ratio']:.2f} times as fast as the best peer, {report['best_peer']}")


def _size(text: str) -> tuple[int, int]:
    w, _, h = text.lower().partition("x")
    if not (w.isdecimal() and h.isdecimal() and int(w) and int(h)):
        raise InputError(f"--size {text} is not WIDTHxHEIGHT, for example 640x360")
    return int(w), int(h)


@cli.command("tune")
@model_option
@scale_option
@click.option("--size", default="640x360", show_default=True, metavar="WxH", help="Size of the input.")
@click.option("--device", default="cuda", show_default=True, metavar="D", help="cuda or cuda:N, an NVIDIA GPU.")
@precision_option
@json_option
@verbose_option
def cmd_tune(model: str | None, scale: int | None, size: str, device: str, precision: str, as_json: bool) -> None:
    """Time every kernel of a model on this GPU; the fastest right ones run images of about that size from now on."""
    from fastsr import load

    w, h = _size(size)
    rows = load(default_model(model, scale), scale=scale, device=device, precision=precision).tune(h, w)
    if as_json:
        _print_json(rows)
        return
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        timed = sorted((row for row in mine if row["seconds"]), key=lambda row: row["seconds"])
        click.echo(f"{stage}: {len(timed)} of {len(mine)} candidates right")
        for row in timed:
            config = row["config"]
            how = " ".join(f"{k}={v}" for k, v in config.items()) if isinstance(config, dict) else config or ""
            click.echo(f"  {1e3 * row['seconds']:9.3f} ms  {row['implementation']} {how}".rstrip())


@cli.command("train")
@click.argument("family")
@click.option("--scale", type=int, help="Not for crnet_a and crnet_b, which learn all scales at once.")
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of HR images; may be given again.",
)
@click.option("--val", multiple=True, type=click.Path(path_type=Path), help="Folder of validation images.")
@click.option("--sizes", help="Filter sizes, as 9-5-5-3; default: 5-3 (annet, its integration), 9-5-5 (srcnn).")
@click.option("--rgb", is_flag=True, default=None, help="A network on RGB instead of Y (srcnn).")
@click.option("--config", help="Sizes of the network, as n0=64,m0=128,steps=15 (btsrn, crnet_a, crnet_b, span).")
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="A checkpoint of another scale to begin from (btsrn, span), a model file (srcnn).",
)
@click.option("--start-at", type=click.FloatRange(0), metavar="MINUTES", help="Prepare, and begin then (span).")
@click.option("--name", help="Of the model files (crnet_a, crnet_b, span).")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Default: auto, a GPU where there is one (btsrn, crnet_a, crnet_b, span; the others use the CPU).",
)
@click.option("--compile/--no-compile", default=None, help="torch.compile; default: on a GPU.")
@click.option("--crops", type=click.IntRange(1), metavar="N", help="Crops a step.")
@click.option(
    "--size", type=click.IntRange(8), metavar="PX", help="Side of a crop: of the HR image (btsrn), of the input."
)
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate to begin with.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time to train, over all pieces; the learning rate follows.",
)
@click.option("--steps", type=click.IntRange(1), help="Steps to train, over all pieces.")
@click.option("--within", type=click.FloatRange(0, min_open=True), metavar="MINUTES", help="Time for all of it (span).")
@click.option(
    "--stop-after",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Stop this piece with a checkpoint; --resume goes on.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The model file to write; of several, their folder.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for checkpoints and caches.")
@click.option("--resume", is_flag=True, help="Go on from what is in --work.")
@verbose_option
def cmd_train(family: str, sizes: str | None, config: str | None, work: Path | None, **options: Any) -> None:
    """Train a family (annet, srcnn, btsrn, crnet_a, crnet_b, span) from HR images by its recipe; the result is a model file."""
    from fastsr import train

    if sizes and not all(part.isdecimal() for part in sizes.split("-")):
        raise InputError(f"--sizes {sizes} is not a list of odd sizes like 9-5-5-3")
    pairs = [part.partition("=") for part in config.split(",")] if config else []
    if not all(key.isidentifier() and value.isdecimal() for key, _, value in pairs):
        raise InputError(f"--config {config} is not a list of sizes like n0=64,m0=128")
    train.run(
        family,
        sizes=tuple(int(part) for part in sizes.split("-")) if sizes else None,
        config={key: int(value) for key, _, value in pairs} or None,
        work=work or Path(f"train_{family}"),
        progress=lambda line: click.echo(line, err=True),
        **options,
    )


@cli.command("convert")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="OUT", type=click.Path(path_type=Path))
@click.option("--scale", type=int, help="Where the checkpoint does not say it.")
@click.option("--licence", help="Of the weights, where the checkpoint does not say it.")
@click.option("--measure", type=click.Path(path_type=Path), metavar="DIR", help="Note its PSNR on DIR's sets in it.")
@verbose_option
def cmd_convert(source: Path, output: Path, scale: int | None, licence: str | None, measure: Path | None) -> None:
    """Make a model file of a checkpoint.

    Known are state dicts (.pth, .pt, .safetensors) of every family, by its authors' names or ours, ncnn's .param with the
    .bin beside it, .pb of FSRCNN and ESPCN, and the A+ and SRCNN authors' .mat files.
    """
    from fastsr import convert

    convert.convert(source, output, scale=scale, licence=licence)
    if measure:
        from fastsr.evaluate.record import record

        click.echo("  ".join(f"{name} {psnr:.2f} dB" for name, psnr in record(output, measure).items()))
    click.echo(f"wrote {output}")


@cli.command("export")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT.onnx", type=click.Path(path_type=Path))
@scale_option
@verbose_option
def cmd_export(model: str, output: Path, scale: int | None) -> None:
    """Write a model as ONNX, for images of any size; checked in ONNX Runtime where that is installed."""
    from fastsr.export import export

    difference = export(model, output, scale)
    checked = "not checked: ONNX Runtime is not installed"
    click.echo(f"wrote {output} ({checked if difference is None else f'ONNX Runtime differs by {difference:.1g}'})")


@cli.command("doctor")
@json_option
@verbose_option
def cmd_doctor(as_json: bool) -> None:
    """Show what fastsr finds on this machine."""
    from fastsr import doctor

    report = doctor.examine()
    if as_json:
        _print_json(report)
        return
    for key, value in report.items():
        click.echo(f"{key:12} {value}")
