# SPDX-License-Identifier: Apache-2.0
"""`fastsr-ncnn`: the arguments, lines and exit habits of realesrgan-ncnn-vulkan and upscayl-bin, on the CPU.

GUIs start these programs by name and read their lines: progress as "12.34%" on stderr, "failed" where it went wrong.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from fastsr.report import catch_signals

HELP = """Usage: fastsr-ncnn -i infile -o outfile [options]...

  -h                   show this help
  -i input-path        input image path (jpg/png/webp/...) or directory
  -o output-path       output image path (jpg/png/webp/...) or directory
  -s scale             upscale ratio (2, 3, 4; default: the model's)
  -z model-scale       scale of the model, where its name does not say it
  -w width[xheight]    width of the result
  -c compression       0 to 100: quality of jpg and webp is 100 less it
  -t tile-size         tile size (>=32, 0=auto; default=0): the result does not depend on it
  -m model-path        folder of model files
  -n model-name        a name from `fastsr models`, or of a file in model-path (default: annet)
  -g gpu-id            ignored: this program computes on the CPU
  -j load:proc:save    thread count for load/proc/save (default=1:all:1)
  -x                   enable tta mode
  -f format            output image format (jpg/png/webp, default=ext/png)
  -v                   verbose output"""
VALUED, FLAGS = "iosmntgjfwczr", "xvh"
DEFAULT_SCALE = 4


class Usage(Exception):
    """What is wrong with the arguments."""


def parse(argv: list[str]) -> dict[str, Any]:
    """By getopt's rules; empty strings, which GUIs leave where an option is off, are passed over."""
    found: dict[str, Any] = {}
    words = [word for word in argv if word != ""]
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("-") or len(word) < 2:
            continue  # getopt leaves what is no option
        letter, rest = word[1], word[2:].strip()
        if letter in VALUED:
            if not rest:
                if i >= len(words):
                    raise Usage(f"option -{letter} requires an argument")
                rest = words[i]
                i += 1
            found[letter] = rest
        elif letter in FLAGS:
            found[letter] = True
            if rest:
                words.insert(i, "-" + rest)
        else:
            raise Usage(f"invalid option -{letter}")
    return found


def _number(found: dict[str, Any], letter: str, least: int, most: int) -> int | None:
    if letter not in found:
        return None
    text = str(found[letter]).split(",")[0]
    if not text.isdecimal() or not least <= int(text) <= most:
        raise Usage(f"invalid argument of -{letter}: {found[letter]}")
    return int(text)


def _model(found: dict[str, Any], scale: int | None) -> tuple[str, str | None]:
    """What to load, and what is to be said about it."""
    from fastsr import models

    name, folder = found.get("n"), found.get("m")
    shipped = {m.name: m for m in models()}
    if name is None:
        return f"annet_x{scale or DEFAULT_SCALE}", None
    for ending in (".safetensors", ".pth", ".mat"):
        path = os.path.join(folder or "", name + ending)
        if os.path.isfile(path):
            return path, None
    if name in shipped:
        return name, None
    if f"{name}_x{scale or DEFAULT_SCALE}" in shipped:
        return f"{name}_x{scale or DEFAULT_SCALE}", None
    known = next((s for s in (4, 3, 2) if f"x{s}" in name.lower() or f"{s}x" in name.lower()), DEFAULT_SCALE)
    instead = f"annet_x{scale if scale in (2, 3, 4) else known}"
    why = (
        "model files of ncnn (.param, .bin) cannot be read yet"
        if folder and os.path.isfile(os.path.join(folder, name + ".param"))
        else "there is no such model"
    )
    return instead, f"{name}: {why}; {instead} is used instead"


class _Percent:
    """Progress as ncnn programs print it; see fastsr.progress."""

    def __init__(self, total: int, verbose: bool) -> None:
        self._total, self._done, self._verbose = total, 0, verbose

    def begin(self, source: str) -> None:
        self._say(self._done)

    def part(self, source: str, share: float) -> None:
        self._say(self._done + min(share, 0.9999))

    def end(self, source: str, target: str, error: str | None = None) -> None:
        self._done += 1
        if error is None:
            self._say(self._done)
            if self._verbose:
                print(f"{source} -> {target} done", file=sys.stderr, flush=True)

    def _say(self, done: float) -> None:
        print(f"{100 * done / max(1, self._total):.2f}%", file=sys.stderr, flush=True)

    def clear(self) -> None: ...


def main() -> None:
    """Entry point of the `fastsr-ncnn` command."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    catch_signals()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def run(argv: list[str]) -> int:
    from fastsr.errors import FastsrError

    try:
        found = parse(argv)
        if "h" in found or "i" not in found or "o" not in found:
            print(HELP, file=sys.stderr)
            return 0 if "h" in found else 255
        return _work(found)
    except Usage as e:
        print(f"{e}\n{HELP}", file=sys.stderr)
        return 255
    except (FastsrError, MemoryError) as e:
        print(f"failed: {e or 'out of memory'}", file=sys.stderr)
        return 255


def _work(found: dict[str, Any]) -> int:
    from fastsr import batch, image, load, targets
    from fastsr.files.resize import Wish, parse_size
    from fastsr.files.writing import Saving

    image.quiet_decoders()
    scale, compression = _number(found, "s", 1, 16), _number(found, "c", 0, 100)
    own = _number(found, "z", 1, 16)
    tile = _number(found, "t", 0, 1 << 20)
    model, said = _model(found, scale if scale in (2, 3, 4) else own)
    if said:
        print(f"note: {said}", file=sys.stderr)
    threads = [int(part) for part in str(found.get("j", "")).replace(",", ":").split(":") if part.isdecimal()]
    upscaler = load(model, device="cpu", tile=tile or "auto", self_ensemble="x" in found)
    wish = Wish()
    if "w" in found:
        wish = Wish(size=parse_size(found["w"] if "x" in found["w"] else f"{found['w']}x", "-w"))
    elif scale is not None and scale != upscaler.scale:
        wish = Wish(times=float(scale))
    ending = found.get("f", "").lower().removeprefix(".")
    ending = ending if ending and ending != "ext" else None
    if not os.path.isdir(found["i"]) and "." in os.path.basename(found["o"]):
        ending = None  # the name says it
    made = targets.items((found["i"],), found["o"], targets.Naming(ending, upscaler.scale, upscaler.name), False)
    quality = None if compression is None else max(1, 100 - compression)
    options = batch.Options(wish, Saving(quality), None, max(1, min(16, threads[-1] if threads else 1)), True)

    def report(e: BaseException, source: str) -> int:
        print(f"failed: {source}: {e or 'out of memory'}", file=sys.stderr)
        return 255

    def note(source: str, line: str) -> None:
        if "v" in found:
            print(f"note: {source}: {line}", file=sys.stderr)

    return batch.Batch(upscaler, options, _Percent(len(made), "v" in found), report, note).run(made)
