# SPDX-License-Identifier: Apache-2.0
"""fastsr-ncnn takes the argument vectors that GUIs of *-ncnn-vulkan send, and answers as they expect."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsr import ncnn
from fastsr.testing import script

making: Any = script(Path(__file__).parent / "making.py")
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    making.write_png("a.png", making.photo(3, np.uint8, 255, h=10, w=14))

    def call(*args: object) -> tuple[int, list[str]]:
        code = ncnn.run([str(arg) for arg in args])
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err.splitlines()

    return call


def upscayl(scale: str = "", width: str = "", gpu: str = "", tta: bool = False, tile: int = 0) -> list[str]:
    """As electron/utils/get-arguments.ts of Upscayl 2.15 builds it for one picture: what is off is an empty string."""
    return [
        *("-i", "a.png", "-o", "o.png"),
        *("-s" if scale else "", scale),
        *("-m", "models", "-n", "upscayl-standard-4x"),
        *("-g" if gpu else "", gpu),
        *("-f", "png"),
        *("-w" if width else "", width),
        *("-c", "0"),
        *("-t" if tile else "", str(tile) if tile else ""),
        "-x" if tta else "",
    ]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (56, 40)),
        ({"scale": "2"}, (28, 20)),
        ({"scale": "3", "gpu": "0,1"}, (42, 30)),
        ({"width": "35"}, (35, 25)),
        ({"tta": True, "tile": 32, "scale": "2"}, (28, 20)),
        ({"scale": "8"}, (112, 80)),
    ],
)
def test_upscayls_command_lines(run: Run, options: dict[str, Any], size: tuple[int, int]) -> None:
    code, lines = run(*upscayl(**options))
    assert code == 0
    with Image.open("o.png") as out:
        assert (out.format, out.size) == ("PNG", size)
    assert "there is no such model" in lines[0]
    percents = [float(line[:-1]) for line in lines[1:]]
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_folders_formats_and_compression(run: Run) -> None:
    Path("in").mkdir()
    for name in ("x", "y"):
        Path("a.png").rename(f"in/{name}.png") if name == "x" else Image.open("in/x.png").save("in/y.png")
    code, lines = run("-i", "in", "-o", "out", "-s", "2", "-f", "jpg", "-c", "40", "-j", "1:2:2", "-v")
    assert code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["x.jpg", "y.jpg"]
    assert any(line == "in/x.png -> out/x.jpg done" for line in lines)
    assert run("-i", "in", "-o", "out", "-n", "annet_x3")[0] == 0  # and again, over what is there
    assert Image.open("out/x.png").size == (42, 30)


def test_what_goes_wrong_says_failed(run: Run) -> None:
    for args, message in (
        (["-i", "none.png", "-o", "o.png"], "failed: none.png: none.png: no such file"),
        (["-i", "a.png", "-o", "no/o.png"], "failed: no/o.png: the folder no does not exist"),
        (["-i", "a.png", "-o", "o.png", "-s", "two"], "invalid argument of -s: two"),
        (["-i", "a.png", "-o", "o.png", "-q", "1"], "invalid option -q"),
        (["-i", "a.png", "-o"], "option -o requires an argument"),
        ([], "Usage: fastsr-ncnn -i infile -o outfile [options]..."),
    ):
        code, lines = run(*args)
        assert (code, message in lines) == (255, True), lines
    assert run("-h")[0] == 0


def test_getopts_ways() -> None:
    assert ncnn.parse(["-ia.png", "-oo.png", "-s4", "-xv", "", "rest"]) == {
        **{"i": "a.png", "o": "o.png", "s": "4"},
        **{"x": True, "v": True},
    }


def test_models_by_name_and_file(run: Run) -> None:
    Path("models").mkdir()
    Path("models/realesrgan-x4plus.param").write_text("7767517")
    code, lines = run("-i", "a.png", "-o", "o.png", "-m", "models", "-n", "realesrgan-x4plus")
    assert code == 0
    assert lines[0] == (
        "note: realesrgan-x4plus: model files of ncnn (.param, .bin) cannot be read yet; annet_x4 is used instead"
    )
    code, lines = run("-i", "a.png", "-o", "o.png", "-n", "srcnn_915", "-s", "3")
    assert (code, lines[0]) == (0, "0.00%")


def test_the_other_command_understands_it_too(run: Run) -> None:
    command = [sys.executable, "-m", "fastsr", "-i", "a.png", "-o", "o.png", "-s", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "100.00%"
