# SPDX-License-Identifier: Apache-2.0
"""Which files a command line names, and where each result goes; all that can be refused is refused before the work."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsr.errors import InputError, OutputError
from fastsr.files.picture import ENDINGS, READ_ENDINGS, kind_of

JUNK = (".", "~")
FIELDS = ("stem", "name", "ext", "dir", "scale", "model")


@dataclass(frozen=True)
class Item:
    source: str
    target: str
    kind: str
    """the format of the result"""
    listed: bool = True
    """whether the target lies in a folder of results, where what exists is not replaced unasked"""


@dataclass(frozen=True)
class Naming:
    """How results are called."""

    format: str | None  # an ending without its dot
    scale: int
    model: str


def items(inputs: Sequence[str], output: str, naming: Naming, recursive: bool) -> list[Item]:
    """Raises InputError and OutputError; folders for the results are made."""
    sources, many = _sources(inputs, recursive)
    if output == "-":
        if len(sources) != 1:
            raise OutputError("-: stdout takes one result, not several")
        return [Item(sources[0][0], "-", _kind(f".{naming.format or 'png'}", "-"), False)]
    if "{" in output:
        made = [_by_pattern(source, within, output, naming) for source, within in sources]
    elif many or _is_folder(output):
        ending = naming.format or "png"
        _kind(f".{ending}", output)
        if kind_of(output) and not os.path.isdir(output):
            if os.path.exists(output):
                raise OutputError(f"{output}: cannot be made a folder for the results: File exists")
            raise OutputError(f"{output}: is one file, for {len(sources)} results: name a folder")
        made = [
            Item(source, os.path.join(output, within, f"{_stem(source)}.{ending}"), _kind(f".{ending}", output))
            for source, within in sources
        ]
    else:
        kind = kind_of(f"x.{naming.format}") if naming.format else kind_of(output)
        made = [Item(sources[0][0], output, kind or _kind(Path(output).suffix, output), False)]
    _check_names(made)
    _make_folders(made, output)
    for item in made:
        _check(item)
    return made


def sources(inputs: Sequence[str], recursive: bool) -> list[str]:
    """The files that are named."""
    return [source for source, _ in _sources(inputs, recursive)[0]]


def _stem(source: str) -> str:
    return "stdin" if source == "-" else Path(source).stem


def _sources(inputs: Sequence[str], recursive: bool) -> tuple[list[tuple[str, str]], bool]:
    """(file, folder below the one that was named), and whether results go into a folder."""
    found: list[tuple[str, str]] = []
    many = len(inputs) > 1
    for name in inputs:
        if name != "-" and os.path.isdir(name):
            many = True
            inside = list(_pictures(name, "", recursive))
            if not inside:
                raise InputError(f"{name}: holds no pictures" + ("" if recursive else "; -r looks into its folders"))
            found += inside
        elif name != "-" and not os.path.exists(name) and glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise InputError(f"{name}: matches no file")
            many = True
            found += [(match, "") for match in matches if os.path.isfile(match)]
        else:
            found.append((name, ""))
    return found, many


def _pictures(folder: str, within: str, recursive: bool) -> Iterator[tuple[str, str]]:
    """Files whose names say that they are pictures, by name; what systems leave beside them is passed over."""
    with os.scandir(os.path.join(folder, within)) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith(JUNK):
                continue
            if entry.is_dir() and recursive:
                yield from _pictures(folder, os.path.join(within, entry.name), recursive)
            elif entry.is_file() and Path(entry.name).suffix.lower() in READ_ENDINGS:
                yield os.path.join(folder, within, entry.name), within


def _is_folder(output: str) -> bool:
    """Whether a result of one input goes into it: it is one, or its name has no ending."""
    return os.path.isdir(output) or output.endswith(("/", os.sep)) or not Path(output).suffix


def _by_pattern(source: str, within: str, pattern: str, naming: Naming) -> Item:
    path = Path(source)
    ending = naming.format or "png"
    values = {
        "stem": _stem(source),
        "name": path.name,
        "ext": ending,
        "dir": within or os.path.dirname(source) or ".",
        "scale": naming.scale,
        "model": naming.model,
    }
    try:
        target = pattern.format_map(values)
    except (KeyError, ValueError, IndexError, AttributeError) as e:
        fields = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise OutputError(f"{pattern}: is not a pattern of {fields}: {e}") from None
    return Item(source, target, _kind(Path(target).suffix, target))


def _kind(suffix: str, output: str) -> str:
    kind = ENDINGS.get(suffix.lower())
    if kind is None:
        raise OutputError(f"{output}: unknown ending {suffix!r}: use one of {', '.join(ENDINGS)}")
    return kind


def _check_names(made: list[Item]) -> None:
    count = Counter(os.path.normcase(os.path.normpath(item.target)) for item in made)
    twice = sorted(
        {os.path.basename(i.target) for i in made if count[os.path.normcase(os.path.normpath(i.target))] > 1}
    )
    if twice:
        raise InputError(
            f"several inputs would become {' and '.join(twice[:3])}: upscale them one by one, or name results by "
            "-o 'folder/{name}.png'"
        )


def _make_folders(made: list[Item], output: str) -> None:
    for folder in dict.fromkeys(os.path.dirname(item.target) or "." for item in made if item.listed):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as e:
            raise OutputError(f"{output}: cannot be made a folder for the results: {e.strerror}") from None


def _check(item: Item) -> None:
    target, folder = item.target, os.path.dirname(item.target) or "."
    if not os.path.isdir(folder):
        raise OutputError(f"{target}: the folder {folder} does not exist")
    if os.path.isdir(target):
        raise OutputError(f"{target}: is a folder")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: no permission to write in {folder}")
    both = item.source != "-" and os.path.exists(target) and os.path.exists(item.source)
    if both and os.path.samefile(target, item.source):
        raise OutputError(f"{target}: is the input itself; choose another output")
