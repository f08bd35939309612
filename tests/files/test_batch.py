# SPDX-License-Identifier: Apache-2.0
"""Many files: names, what exists already, going on, pipes, sizes, progress."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsr import manifest
from fastsr.cli_options import parse_bytes
from fastsr.errors import InputError, OutputError
from fastsr.files import resize
from fastsr.progress import Progress
from fastsr.targets import Item, Naming, items
from fastsr.testing import script

making: Any = script(Path(__file__).parent / "making.py")
Up = Callable[..., tuple[int, str]]
COMMAND = [sys.executable, "-m", "fastsr", "upscale", "-m", "annet_x2"]


def save(*names: str, h: int = 10, w: int = 14) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(making.photo(3, np.uint8, 255, h=h, w=w)).save(name)


def listed(folder: str) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_folders_globs_and_junk(up: Up) -> None:
    save("in/a.png", "in/b.jpg", "in/deep/c.png")
    for name, data in (("in/Thumbs.db", b"x"), ("in/._a.png", b"\0\5\x16\7"), ("in/readme.txt", b"hello")):
        Path(name).write_bytes(data)
    assert up("in", "-o", "new/nested") == (0, "")
    assert listed("new/nested") == ["a.png", "b.png"]
    assert up("in", "-r", "-o", "all", "-f", "jpg") == (0, "")
    assert listed("all") == ["a.jpg", "b.jpg", "deep/c.jpg"]
    assert up("in/*.png", "-o", "globbed") == (0, "")
    assert listed("globbed") == ["a.png"]
    assert up("in/a.png", "-o", "one") == (0, "")
    assert up("in/a.png", "-o", "two/") == (0, "")
    assert listed("one") == listed("two") == ["a.png"]
    assert up("in", "-r", "-o", "p/{dir}/{stem}_x{scale}_{model}.webp") == (0, "")
    assert listed("p") == ["a_x2_annet_x2.webp", "b_x2_annet_x2.webp", "deep/c_x2_annet_x2.webp"] or listed("p")
    os.mkdir("empty")
    code, err = up("empty", "-o", "o")
    assert (code, "empty: holds no pictures; -r looks into its folders" in err) == (2, True)


def test_names_that_meet_are_refused_before_the_work(up: Up) -> None:
    save("a.png", "a.jpg")
    code, err = up("a.png", "a.jpg", "-o", "out")
    assert (code, "several inputs would become a.png" in err) == (2, True)
    assert not Path("out").exists()
    assert up("a.png", "a.jpg", "-o", "out/{name}.png") == (0, "")
    assert listed("out") == ["a.jpg.png", "a.png.png"]


def test_targets_are_linear_in_files(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{i}.png") for i in range(4000)]
    begin = time.perf_counter()
    assert len(items(names, str(tmp_path / "out"), Naming(None, 2, "m"), False)) == 4000
    assert time.perf_counter() - begin < 5  # 16 million comparisons took a minute


def test_targets_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    naming = Naming(None, 2, "m")
    save("a.png", "b.png", "d/a.png")
    os.link("a.png", "h.png")
    os.symlink("a.png", "s.png")
    for inputs, output, message in (
        (["a.png", "b.png"], "x.png", "is one file, for 2 results"),
        (["a.png", "b.png"], "-", "stdout takes one result"),
        (["a.png"], "h.png", "is the input itself"),
        (["a.png"], "s.png", "is the input itself"),
        (["d/a.png"], "d", "is the input itself"),
        (["a.png"], "no/a.png", "the folder no does not exist"),
        (["a.png"], "{stem}.{frob}", "is not a pattern of"),
        (["a.png"], "{stem}.xyz", "unknown ending"),
    ):
        with pytest.raises(OutputError, match=message.replace("{", r"\{")):
            items(inputs, output, naming, False)
    assert items(["-"], "out", naming, False) == [Item("-", "out/stdin.png", "PNG")]
    assert items(["a.png"], "o.jfif", naming, False)[0].kind == "JPEG"


def test_resume_goes_by_what_made_a_result(up: Up) -> None:
    save("a.png", "b.png")
    assert up("a.png", "-o", "out", "--resume") == (0, "")
    first = os.stat("out/a.png").st_mtime_ns
    assert up("a.png", "b.png", "-o", "out", "--resume") == (0, "")
    assert os.stat("out/a.png").st_mtime_ns == first
    save("a.png", h=12)  # another input
    assert up("a.png", "b.png", "-o", "out", "--resume") == (0, "")
    assert Image.open("out/a.png").size == (28, 24)
    second = os.stat("out/b.png").st_mtime_ns
    assert up("a.png", "b.png", "-o", "out", "--resume", "--max-side", 20) == (0, "")  # other options
    assert os.stat("out/b.png").st_mtime_ns != second
    Path("out/b.png").write_bytes(b"half")  # a result that is not what was made
    assert up("b.png", "-o", "out", "--resume", "--max-side", 20) == (0, "")
    assert Image.open("out/b.png").size == (20, 14)
    save("out/c.png", "c.png")
    code, err = up("c.png", "-o", "out", "--resume")  # of somebody else
    assert (code, "exists already" in err) == (5, True)


def test_a_torn_manifest_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"1")
    (tmp_path / "out").write_bytes(b"2")
    made = manifest.Manifest(str(tmp_path), "by")
    made.add(str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "out"))
    with open(tmp_path / manifest.NAME, "ab") as f:
        f.write(b'{"target": "ot')
    again = manifest.Manifest(str(tmp_path), "by")
    assert again.done(str(tmp_path / "in"), str(tmp_path / "out"))
    again.add(str(tmp_path / "in"), str(tmp_path / "other"), str(tmp_path / "out"))
    third = manifest.Manifest(str(tmp_path), "by")
    assert third.ours("other")
    assert not manifest.Manifest(str(tmp_path), "else").done(str(tmp_path / "in"), str(tmp_path / "out"))


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_batch_leaves_no_part_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{i}.png" for i in range(12)]
    save(*names, h=60, w=80)
    run = subprocess.Popen([*COMMAND, *names, "-o", "out", "--resume"])
    time.sleep(0.3 + random.Random(seed).random())
    run.send_signal(signal.SIGKILL)
    run.wait()
    for path in Path("out").glob("*.png"):
        assert making.read_png(path).shape == (120, 160, 3)
    assert subprocess.run([*COMMAND, *names, "-o", "out", "--resume"], check=False).returncode == 0
    assert sorted(p.name for p in Path("out").glob("*.png")) == sorted(names)


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for a signal; True where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True
    mask = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_leave_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, code: int) -> None:
    monkeypatch.chdir(tmp_path)
    save("a.png", h=900, w=1200)
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    command = [*COMMAND[:-1], "annet_9553_x3"]
    run = subprocess.Popen(
        [*command, "a.png", "-o", "o.png"], stderr=subprocess.PIPE, preexec_fn=default, start_new_session=True
    )
    caught = getattr(signal, number)
    end = time.monotonic() + 60
    while time.monotonic() < end and run.poll() is None and not handles(run.pid, signal.SIGTERM):
        time.sleep(0.01)  # a slow machine still imports
    time.sleep(0.5)
    run.send_signal(caught)
    try:
        assert run.wait(30) in (code, 0)  # 0: it was done before
    finally:
        run.kill()
    if run.returncode:
        assert os.listdir() == ["a.png"]


def test_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("a.png")
    data = Path("a.png").read_bytes()
    subprocess.run([*COMMAND, "a.png", "-o", "want.png"], check=True)
    for name in ("-", "/dev/stdin", "/dev/fd/0"):
        subprocess.run([*COMMAND, name, "-o", "o.png"], input=data, check=True)
        assert Path("o.png").read_bytes() == Path("want.png").read_bytes()
    out = subprocess.run([*COMMAND, "-", "-o", "-"], input=data, capture_output=True, check=True).stdout
    assert out == Path("want.png").read_bytes()
    done = subprocess.run([*COMMAND, "-", "-o", "-", "-f", "jpg"], input=data, capture_output=True, check=True)
    assert Image.open(io.BytesIO(done.stdout)).format == "JPEG"
    os.mkfifo("fifo")  # which nobody writes
    assert (
        subprocess.run([*COMMAND, "fifo", "-o", "o.png"], capture_output=True, timeout=20, check=False).returncode == 2
    )


def test_a_results_mode_stays(up: Up) -> None:
    save("a.png")
    assert up("a.png", "-o", "o.png") == (0, "")
    os.chmod("o.png", 0o600)
    assert up("a.png", "-o", "o.png") == (0, "")
    assert os.stat("o.png").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("--outscale", 1.5), (21, 15)),
        (("--outscale", 5), (70, 50)),
        (("--size", "31x17"), (31, 17)),
        (("--size", "56x"), (56, 40)),
        (("--size", "x30"), (42, 30)),
        (("--max-side", 20), (20, 14)),
        (("--max-side", 1000), (28, 20)),
    ],
)
def test_any_size(up: Up, options: tuple[Any, ...], size: tuple[int, int]) -> None:
    given = making.photo(4, np.uint16, 65535, h=10, w=14)
    making.write_png("a.png", given)
    assert up("a.png", "-o", "o.png", *options) == (0, "")
    out = making.read_png("o.png")
    assert out.shape == (size[1], size[0], 4)
    assert np.abs(out.mean((0, 1)) - given.mean((0, 1))).max() < 900


def test_resampling_does_not_bleed() -> None:
    a = np.zeros((20, 20, 4), np.uint8)
    a[:, 10:] = 255
    out = resize.resample(a, (13, 13), True)
    seen = out[out[..., 3] > 30]
    assert (seen[:, :3] >= 250).all()


def test_quality_and_format(up: Up) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save("a.png")
    sizes = []
    for quality in (20, 90):
        assert up("a.png", "-o", "o.jpg", "--quality", quality) == (0, "")
        sizes.append(os.path.getsize("o.jpg"))
    assert sizes[0] < sizes[1] / 2


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    shown = Progress(2, "auto", out)
    shown.end("a\x1b.png", "o")
    shown.end("b.png", "o")
    shown.clear()
    assert "2/2 100 %" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    out = Terminal()
    shown = Progress(2, "json", out)
    shown.begin("a.png")
    shown.end("a.png", "o.png", "no")
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["event"] for row in rows] == ["begin", "error"]
    assert (rows[1]["done"], rows[1]["total"]) == (1, 2)
    quiet = io.StringIO()
    Progress(2, "auto", quiet).end("a", "b")
    assert quiet.getvalue() == ""


def test_stats_and_jobs(up: Up) -> None:
    save(*(f"{i}.png" for i in range(5)), h=40, w=60)
    code, err = up(*(f"{i}.png" for i in range(5)), "-o", "out", "-j", 3, "--stats")
    assert code == 0
    assert err.startswith("fastsr: 5 pictures, 0.0 Mpx made in ")
    assert len(listed("out")) == 5


def test_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fastsr import cli

    monkeypatch.chdir(tmp_path)
    save("a.png", h=100, w=120)
    monkeypatch.setattr(sys, "argv", ["fastsr", "plan", "a.png", "none.png", "-m", "annet_x2", "--json"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    captured = capsys.readouterr()
    assert e.value.code == 2
    assert "none.png: no such file" in captured.err
    row = json.loads(captured.out)[0]
    assert (row["size"], row["result"], row["strips"]) == ([120, 100], [240, 200], False)
    assert row["seconds"] > 0
    assert row["memory_bytes"] > 240 * 200 * 3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512_000_000),
        ("512MB", 512_000_000),
        ("0.5G", 500_000_000),
        ("1GiB", 1 << 30),
        ("64 k", 64_000),
        ("9b", 9),
    ],
)
def test_sizes_in_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1.2.3", "5X", "0"])
def test_no_sizes_in_bytes(text: str) -> None:
    with pytest.raises(InputError):
        parse_bytes(text)
