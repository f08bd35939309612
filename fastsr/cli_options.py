# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

import re

import click

from fastsr.errors import InputError

DEFAULT_FAMILY, DEFAULT_SCALE = "annet", 3
UNITS = {"": 10**6, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_bytes(text: str, option: str = "--memory-limit") -> int:
    """ "512MB", "0.5G", "512MiB"; a number alone is MB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)(b?)\s*", text.lower())
    if found is None or (found[2] not in UNITS):
        raise InputError(f"{option} {text} is not a size such as 512MB, 0.5G or 512MiB")
    unit = "b" if found[3] and not found[2] else found[2]
    size = int(float(found[1]) * UNITS[unit])
    if size < 1:
        raise InputError(f"{option} {text} is nothing: give a size such as 512MB")
    return size


def default_model(model: str | None, scale: int | None) -> str:
    """The name of the model that is meant."""
    return model or f"{DEFAULT_FAMILY}_x{scale or DEFAULT_SCALE}"


model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help=f"A name from `fastsr models`, or a model file.  [default: {DEFAULT_FAMILY}_x{DEFAULT_SCALE}]",
)
scale_option = click.option(
    "--scale", type=click.IntRange(1, 16), metavar="S", help="Choose among models of one name: -m annet --scale 2."
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N", help="Default: all CPUs this process may use."
)
precision_option = click.option(
    "--precision",
    default="auto",
    show_default=True,
    metavar="P",
    help="auto, fp32, or bf16: wide convolutions faster, 60 dB from fp32; on a GPU also tf32, fp16, fp8.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="D",
    help="auto, cpu, cuda or cuda:N, an NVIDIA GPU, cuda:0,1 or cuda:all, several.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
verbose_option = click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show the trace of an error.")
