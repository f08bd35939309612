# SPDX-License-Identifier: Apache-2.0
"""The shell: what the commands do, that every error is one line on stderr, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastsr
from fastsr import cli, image
from fastsr.executors import devices
from fastsr.executors.cpu import PreparedCpu
from fastsr.testing import rng, script

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command in this process: (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastsr", *map(str, args)])
        with pytest.raises(SystemExit) as e:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(e.value.code, int)
        return e.value.code, captured.out, captured.err

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def assert_one_line(err: str, start: str = "") -> None:
    assert err.startswith(f"fastsr: error: {start}")
    assert err.count("\n") == 1
    assert err.endswith("\n")


def test_upscale(run: Run, small_model: Write, photo: Path, tmp_path: Path) -> None:
    model = small_model()
    for name in ("out.png", "out.PNG", "out.webp", "out.tiff", "out.jpg"):
        assert run("upscale", photo, "-o", tmp_path / name, "-m", model) == (0, "", "")
        assert image.read(tmp_path / name).size == (60, 40)
    want = fastsr.load(model).upscale(Image.open(photo))
    assert np.array_equal(np.asarray(image.read(tmp_path / "out.png")), np.asarray(want))
    for options in (["--threads", 1, "--tile", 9], ["--memory-limit", 3], ["--self-ensemble"], ["--executor", "cpu"]):
        assert run("upscale", photo, "-o", tmp_path / "again.png", "--model", model, *options)[0] == 0
        if options != ["--self-ensemble"]:
            assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()


def test_a_bad_image_among_several(run: Run, small_model: Write, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bmp"
    Image.open(photo).save(other)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    out = tmp_path / "results"
    args = ("upscale", photo, bad, other, "-o", out, "-m", small_model())
    code, _, err = run(*args)
    assert code == 2
    assert_one_line(err, f"{bad}: the file is empty")
    assert sorted(p.name for p in out.iterdir()) == ["other.png", "photo.png"]
    (out / "other.png").unlink()
    code, _, err = run(*args)  # one by one: what is missing is made
    assert code == 2
    assert err.startswith(f"fastsr: error: {out / 'photo.png'}: exists already; give --overwrite")
    assert err.count("\n") == 2
    assert (out / "other.png").exists()
    assert run(*args, "--overwrite")[0] == 2
    code, _, err = run(*args, "--skip-existing")
    assert_one_line(err, f"{bad}: the file is empty")
    code, _, err = run("upscale", photo, tmp_path / "x" / "photo.jpg", "-o", out, "--overwrite")
    assert_one_line(err, "several inputs would become photo.png")


def test_multi_gpu_images_on_a_gpu(
    run: Run, small_model: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    if not devices.interpreted():
        pytest.skip("kernels are compiled in this process")
    sources = [tmp_path / f"{i}.png" for i in range(5)]
    for i, source in enumerate(sources):
        Image.fromarray(rng(i).integers(0, 256, (4, 5), dtype=np.uint8)).save(source)
    sources[1].write_bytes(b"no image")
    monkeypatch.setattr(image, "MAX_OUTPUT", 4 * 20)  # what only the upscaler refuses
    Image.new("L", (7, 3)).save(sources[3])
    args = ("upscale", *sources, "-o", tmp_path / "out", "-m", small_model())
    code, _, err = run(*args, "--executor", "triton")
    assert code == 4
    assert f"{sources[1]}: not an image" in err
    assert f"{sources[3]}: 7x3 pixels times 2" in err
    assert err.count("\n") == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "2.png", "4.png"]
    net = fastsr.load(small_model(), device="cpu")
    for i in (0, 2, 4):
        out, want = image.read(tmp_path / "out" / f"{i}.png"), net.upscale(Image.open(sources[i]))
        assert np.abs(np.asarray(out).astype(int) - np.asarray(want)).max() <= 1


def cases(photo: Path, model: Path, tmp_path: Path) -> list[tuple[list[object], int, str]]:
    bad_model = tmp_path / "bad.safetensors"
    bad_model.write_bytes(model.read_bytes()[:50])
    cut = tmp_path / "cut.png"
    cut.write_bytes(photo.read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("hello")
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4)).save(clear)
    out = tmp_path / "never.png"
    up: list[object] = ["upscale", "-m", model]
    return [
        ([*up, tmp_path / "nothing.png", "-o", out], 2, f"{tmp_path}/nothing.png: no such file"),
        ([*up, cut, "-o", out], 2, f"{cut}: cannot be read"),
        ([*up, text, "-o", out], 2, f"{text}: not an image"),
        ([*up, tmp_path, "-o", out], 5, f"{out}: is one file, for 4 results"),
        ([*up, model.parent / "nothing*", "-o", out], 2, f"{model.parent}/nothing*: matches no file"),
        ([*up, "/dev/null", "-o", out], 2, "/dev/null: not a regular file"),
        ([*up, photo, "-o", tmp_path / "a.xyz"], 5, f"{tmp_path}/a.xyz: unknown ending"),
        ([*up, photo, "-o", tmp_path / "{frob}.png"], 5, f"{tmp_path}/{{frob}}.png: is not a pattern of"),
        ([*up, photo, "-o", out, "--size", "big"], 2, "--size big is not WIDTHxHEIGHT"),
        ([*up, photo, "-o", out, "--memory-limit", "much"], 2, "--memory-limit much is not a size such as 512MB"),
        ([*up, photo, "-o", out, "--size", "9x9", "--outscale", 2], 2, "--outscale, --size and --max-side: give one"),
        ([*up, photo, "-o", tmp_path / "no" / "a.png"], 5, f"{tmp_path}/no/a.png: the folder"),
        ([*up, photo, "-o", photo], 5, f"{photo}: is the input itself"),
        ([*up, photo, "-o", tmp_path], 5, f"{photo}: is the input itself"),
        ([*up, photo, photo, "-o", photo], 5, f"{photo}: cannot be made a folder"),
        ([*up, clear, "-o", tmp_path / "a.jpg"], 5, f"{tmp_path}/a.jpg: JPEG cannot hold"),
        ([*up, photo, "-o", tmp_path / f"{'n' * 300}.png"], 5, str(tmp_path)),
        ([*up, photo, "-o", out, "--scale", 3], 3, "model 'small' upscales 2 times, not 3"),
        (
            [*up, photo, "-o", out, "--memory-limit", 1, "--threads", 512],
            4,
            f"{photo}: memory_limit=1000000 bytes is too low",
        ),
        ([*up, photo, "-o", out, "--executor", "npu"], 6, "executor 'npu' is not one of"),
        ([*up, photo, "-o", out, "--tile", 0], 2, "Invalid value for '--tile'"),
        ([*up, photo], 2, "Missing option '-o'"),
        (["upscale", "-o", out], 2, "Missing argument"),
        (["upscale", photo, "-o", out, "-m", bad_model], 3, f"{bad_model}: "),
        (["upscale", photo, "-o", out, "-m", photo], 3, f"{photo}: not a model file: this is a PNG image"),
        (["upscale", photo, "-o", out, "-m", "annet_x33"], 3, "there is no model 'annet_x33'"),
        (["info", "nothing"], 3, "there is no model 'nothing'"),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["upscale", "--frobnicate"], 2, "No such option"),
        (["eval", "-m", model, "--data", tmp_path / "nothing"], 2, f"{tmp_path}/nothing: no such folder"),
        (["bench", "-m", model, "--size", "big"], 2, "--size big is not WIDTHxHEIGHT"),
        (["train", "frob", "--scale", 3, "--data", tmp_path], 2, "there is no recipe for 'frob'"),
        (["train", "annet", "--scale", 3, "--data", tmp_path, "--sizes", "a"], 2, "--sizes a is not"),
        (["convert", tmp_path / "nothing.mat", "-o", tmp_path / "x.safetensors"], 3, ""),
    ]


def test_every_error_is_one_line(run: Run, small_model: Write, photo: Path, tmp_path: Path) -> None:
    for args, code, message in cases(photo, small_model(), tmp_path):
        before = sorted(tmp_path.rglob("*"))
        got, out, err = run(*args)
        assert (got, out) == (code, ""), (args, err)
        assert_one_line(err, message)
        assert sorted(tmp_path.rglob("*")) == before, args


def test_what_acts_on_a_terminal_is_not_shown(run: Run, small_model: Write, photo: Path, tmp_path: Path) -> None:
    """Of a model file, of an argument, of an error that nobody expects."""
    model = small_model()
    broken = script(Path(__file__).parent / "broken_models.py")
    code, _, err = run("info", broken.plan(b'"conv2d"', b'"\\u001b]0;owned\\u0007"')(model))
    assert (code, err.strip().isprintable()) == (3, True)
    assert r"op '\x1b]0;owned\x07' is not one of" in err
    for args in (
        ["info", "\x1b[2J"],
        ["info", tmp_path / "a\nb\x1b.safetensors"],
        ["frob\x1b"],
        ["eval", "--data", "\x9b1"],
    ):
        _, _, err = run(*args)
        assert_one_line(err)
        assert err.strip().isprintable(), err


def test_decoders_say_nothing_of_their_own(tmp_path: Path, small_model: Write) -> None:
    """libtiff writes to the process's stderr, past Python."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (1, 2, 3)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    content = bytearray(buffer.getvalue())
    content[10] ^= 0xFF
    content[14] ^= 0xFF
    (tmp_path / "a.tif").write_bytes(content)
    command = [sys.executable, "-m", "fastsr", "upscale", str(tmp_path / "a.tif"), "-o", str(tmp_path / "o.png")]
    done = subprocess.run([*command, "-m", str(small_model())], capture_output=True, text=True)
    assert done.returncode == 2
    assert_one_line(done.stderr, f"{tmp_path / 'a.tif'}: cannot be read")


def test_verbose_shows_the_trace(run: Run, tmp_path: Path) -> None:
    for args in (["-v", "info", "nothing"], ["info", "nothing", "-v"], ["info", "nothing", "--verbose"]):
        _, _, err = run(*args)
        assert err.startswith("Traceback")
        assert err.splitlines()[-1].startswith("fastsr: error: there is no model")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 4, "photo.png: out of memory: set --memory-limit"),
        (OSError(5, "Input/output error", "disk"), 1, "disk: Input/output error"),
        (
            RuntimeError("two\nlines"),
            70,
            "internal error, please report it with what -v shows: RuntimeError: two lines",
        ),
    ],
)
def test_what_nobody_expects(
    run: Run, small_model: Write, photo: Path, monkeypatch: pytest.MonkeyPatch, error: Any, code: int, message: str
) -> None:
    def fail(self: object, *given: object) -> None:
        raise error

    monkeypatch.setattr(PreparedCpu, "upscale", fail)
    model = small_model()
    got, _, err = run("upscale", photo, "-o", photo.with_name("o.png"), "-m", model)
    assert got == code
    assert len(err.strip().splitlines()) == 1  # click ends the line of a ^C first
    assert message in err
    assert not photo.with_name("o.png").exists()


def test_models_and_info(run: Run, small_model: Write) -> None:
    code, out, _ = run("models")
    assert code == 0
    listed = json.loads(run("models", "--json")[1])
    assert [m["name"] for m in listed] == [m.name for m in fastsr.models()]
    assert all(m["name"] in out for m in listed)
    code, out, _ = run("info", small_model())
    assert code == 0
    assert "resize_bicubic" in out
    info = json.loads(run("info", small_model(), "--json")[1])
    assert info["name"] == "small"
    assert [s["op"] for s in info["steps"]] == ["resize_bicubic", "conv2d", "conv2d"]


def test_eval(run: Run, small_model: Write, photo: Path) -> None:
    code, out, _ = run("eval", "-m", small_model(), "--data", photo.parent, "--json")
    assert code == 0
    row = json.loads(out)
    assert list(row) == ["model", "scale", "data", "images", "psnr_y", "ssim_y", "seconds"]
    assert (row["model"], row["scale"], row["images"]) == ("small", 2, 1)
    code, out, _ = run("eval", "-m", "bicubic", "--scale", 2, "--data", photo.parent)
    assert "bicubic" in out
    assert "PSNR" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_no_temporary_file(
    run: Run, small_model: Write, photo: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """During the write, when the file is there but not yet under its name."""
    model, before = small_model(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "fsync", lambda fd: signal.raise_signal(number))
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
    try:
        assert run("upscale", photo, "-o", photo.with_name("o.png"), "-m", model)[0] == code
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png", "small.safetensors"]


def test_tune(run: Run, small_model: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("tune", "-m", small_model(), "--device", "cpu")
    assert code == 6
    assert_one_line(err, "there is nothing to tune on the CPU")
    asked = []

    def tune(self: fastsr.Upscaler, h: int, w: int, n: int = 1) -> list[dict[str, Any]]:
        asked.append((h, w))
        rows = [(None, 2e-3), ({"rows": 8, "warps": 4}, 1e-3), ("wgmma", None)]
        return [{"stage": "conv2d 3", "implementation": "triton", "config": config, "seconds": s} for config, s in rows]

    monkeypatch.setattr(fastsr.Upscaler, "tune", tune)
    code, out, _ = run("tune", "-m", small_model(), "--device", "cpu", "--size", "64x36")
    assert (code, asked) == (0, [(36, 64)])
    lines = ["conv2d 3: 2 of 3 candidates right", "1.000 ms  triton rows=8 warps=4", "2.000 ms  triton"]
    assert [line.strip() for line in out.splitlines()] == lines
    assert run("tune", "-m", small_model(), "--size", "64")[0] == 2


def test_doctor_and_help(run: Run) -> None:
    report = json.loads(run("doctor", "--json")[1])
    assert {"isa", "threads", "gpu", "numpy", "python"} <= set(report)
    assert "isa" in run("doctor")[1]
    assert run("--version")[1] == f"fastsr {fastsr.__version__}\n"
    for command in cli.cli.commands:
        code, out, _ = run(command, "-h")
        assert code == 0
        assert out.startswith("Usage: fastsr")


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, env=os.environ | env, executable="/bin/bash", check=False
    )


def test_from_a_real_shell(small_model: Write, photo: Path, tmp_path: Path) -> None:
    fastsr_ = f"{sys.executable} -m fastsr"
    done = shell(f"{fastsr_} upscale {photo} -o {tmp_path}/out.png -m {small_model()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell(f"{fastsr_} upscale {photo} -o {tmp_path}/x.png -m nothing")
    assert done.returncode == 3
    assert_one_line(done.stderr)
    # A reader that went away, and no reader at all: no trace.
    assert shell(f"{fastsr_} models --json | head -c 1").stderr == ""
    assert "Traceback" not in shell(f"{fastsr_} models >&-").stderr


def test_file_names_of_any_bytes(small_model: Write, photo: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xf0\x9f\x98\x80.png")
    os.rename(photo, name)
    args = [sys.executable, "-m", "fastsr", "upscale", name, "-o", name + ".png", "-m", str(small_model())]
    assert subprocess.run(args, env=os.environ | {"LC_ALL": "C"}, check=False).returncode == 0
    assert os.path.exists(name + ".png")
    done = subprocess.run([*args[:4], name + "x", *args[5:]], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"fastsr: error: ")
