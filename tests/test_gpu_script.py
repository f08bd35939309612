# SPDX-License-Identifier: Apache-2.0
"""What bench/gpu.sh runs on a GPU that is lent for minutes: here without one, with processes that hang, fault and vanish."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ABOUT = {"machine": "a-gpu", "torch": "2.11", "kernels": "abc", "peers": "pqr"}

WORKER = """
import json, os, sys, time
how = sys.argv[1]
def say(**found):
    print(json.dumps(found), flush=True)
print("said by a library", flush=True)
say(doing="counting sheep")
print("about to", how, file=sys.stderr, flush=True)
if how == "hangs": time.sleep(60)
if how == "creeps":
    for i in range(60): time.sleep(0.2); say(doing=f"step {i}")
if how == "takes long":
    for i in range(10): time.sleep(0.3); say(doing=f"step {i}")
if how == "vanishes": os._exit(0)
if how == "faults": os.abort()
if how == "raises": say(failed="KernelError: out of registers")
say(ready=True, flops=4e12, traffic=2e9)
for word in sys.stdin:
    if how == word.strip() + " hangs": time.sleep(60)
    if how == word.strip() + " faults": os.abort()
    say(ms=[2.0, 1.0, 3.0], ms_latency=5.0, graph=True, psnr_to_fp32=70.0, candidates=[{"implementation": "cuda", "seconds": 1.0}])
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/bench_gpu.py, whose files go to `tmp_path`."""
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    module = importlib.import_module("bench_gpu")
    monkeypatch.setattr(module.jobs, "WORK", tmp_path / "work")
    monkeypatch.setattr(module.jobs, "RESULTS", tmp_path / "results")
    return module


@pytest.fixture
def begin(bench: ModuleType, tmp_path: Path) -> Callable[[Any], Any]:
    """Starts a worker that does what the engine's name says."""
    fake = tmp_path / "worker.py"
    fake.write_text(WORKER)

    def begin(job: Any) -> Any:
        log = tmp_path / "logs" / f"{job.engine}.txt"
        return bench.jobs.Worker([sys.executable, str(fake), job.engine], log)

    return begin


def job(bench: ModuleType, how: str) -> Any:
    return bench.Job("btsrn_x3", how, "fp16")


def test_each_way_to_fail_is_a_row_and_the_others_are_measured(
    bench: ModuleType, begin: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PREPARE", 12.0)
    monkeypatch.setattr(bench, "STALLED", 6.0)
    monkeypatch.setattr(bench, "FIRST", 1.0)
    ways = ["hangs", "creeps", "vanishes", "faults", "raises", "first hangs", "first faults", "again faults", "works"]
    file = tmp_path / "results/gpu.json"
    report = bench.Report(file, ABOUT)
    jobs = [job(bench, how) for how in ways]
    left = bench.measure(report, jobs, time.monotonic() + 60, 9, begin)
    rows = {row["engine"]: row for row in json.loads(file.read_text())["rows"]}
    assert json.loads((tmp_path / "out/gpu.json").read_text())["rows"] == list(rows.values())
    assert set(rows) == set(ways)
    assert "preparing: stalled for 6 s, killed counting sheep" in rows["hangs"]["failed"]
    assert "preparing: not ready after 12 s, killed step " in rows["creeps"]["failed"]
    assert "ended with status 0" in rows["vanishes"]["failed"]
    assert "ended by signal SIGABRT" in rows["faults"]["failed"]
    assert rows["raises"]["failed"].endswith("KernelError: out of registers")
    assert "first turn: no answer in 1 s" in rows["first hangs"]["failed"]
    assert "SIGABRT" in rows["first faults"]["failed"]
    assert rows["works"]["ms_median"] == 2.0
    assert rows["works"]["ms_turns"] == [2.0, 2.0]
    assert rows["works"]["tflops"] == 2000.0
    assert rows["works"]["tbps"] == 1.0
    assert rows["again faults"]["ms_turns"] == [2.0]
    assert left == [job(bench, how) for how in ways[:7]]
    faults = (tmp_path / "out/faults.txt").read_text()
    assert all(f"about to {how}" in faults for how in (*ways[:7], "again faults"))
    assert '"implementation": "cuda"' in (tmp_path / "out/tuning.jsonl").read_text()
    # A second run goes on: what was measured stays, what failed comes last.
    again = bench.Report(file, ABOUT)
    wanted = [job(bench, "faults"), job(bench, "works"), job(bench, "new")]
    assert again.left(wanted) == [job(bench, "new"), job(bench, "faults")]
    assert bench.measure(again, wanted, time.monotonic() + 60, 8, begin) == [job(bench, "faults")]
    assert {r["engine"]: r for r in json.loads(file.read_text())["rows"]}["works"] == rows["works"]


def test_who_takes_long_keeps_nobody_waiting_and_stands_still_meanwhile(
    bench: ModuleType, begin: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ROUND", 0.5)
    monkeypatch.setattr(bench, "SETTLE", 0.0)
    report = bench.Report(tmp_path / "results/gpu.json", ABOUT)
    workers: dict[str, Any] = {}
    states: list[str] = []

    def kept(one: Any) -> Any:
        workers[one.engine] = begin(one)
        return workers[one.engine]

    turn = bench._turn

    def watched(*args: Any) -> Any:
        time.sleep(0.1)
        state = Path(f"/proc/{workers['takes long'].process.pid}/stat")
        states.append(state.read_text().rpartition(")")[2].split()[0] if state.exists() else "?")
        return turn(*args)

    monkeypatch.setattr(bench, "_turn", watched)
    wanted = [job(bench, name) for name in ("takes long", "works", "works too")]
    assert bench.measure(report, wanted, time.monotonic() + 60, 2, kept) == []
    assert [row["engine"] for row in report.data["rows"]] == ["works", "works too", "takes long"]
    if Path("/proc/self/stat").exists():
        assert states[:4] == ["T"] * 4
        assert "T" not in states[4:]


def test_no_batch_begins_that_cannot_end(bench: ModuleType, begin: Callable[[Any], Any], tmp_path: Path) -> None:
    report = bench.Report(tmp_path / "results/gpu.json", ABOUT)
    wanted = [job(bench, "works"), job(bench, "works too")]
    assert bench.measure(report, wanted, time.monotonic() + 1, 8, begin) == wanted
    assert report.data["rows"] == []


def test_nothing_is_timed_while_others_use_the_gpu(
    bench: ModuleType, begin: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = tmp_path / "testing"
    busy.touch()
    seen: list[bool] = []
    turn = bench._turn
    monkeypatch.setattr(bench, "_turn", lambda *args: (seen.append(busy.exists()), turn(*args))[1])
    threading.Timer(3.0, busy.unlink).start()
    report = bench.Report(tmp_path / "results/gpu.json", ABOUT)
    assert bench.measure(report, [job(bench, "works")], time.monotonic() + 60, 8, begin, busy) == []
    assert seen == [False, False]


def test_turns_are_taken_alone_and_max_prepares_alone(bench: ModuleType, tmp_path: Path) -> None:
    events: list[str] = []

    class Recorder:
        def __init__(self, job: Any) -> None:
            self.name, self.said = job.engine, "ready"
            events.append(f"begin {self.name}")

        def say(self, word: str) -> None:
            self.said = word

        began = since = float("inf")

        def poll(self, what: str) -> dict[str, Any]:
            return self.answer(0.0, what)

        def answer(self, limit: float, what: str) -> dict[str, Any]:
            events.append(f"{self.said} {self.name}")
            return {"flops": 1.0, "traffic": None, "ms": [1.0]}

        def kill(self) -> None:
            events.append(f"kill {self.name}")

    report = bench.Report(tmp_path / "results/gpu.json", ABOUT)
    wanted = [job(bench, name) for name in ("a", "b", "torch.compile max")]
    assert bench.measure(report, wanted, time.monotonic() + 60, 2, Recorder) == []
    words = ("begin", "ready", "first", "again", "kill")
    assert events[:10] == [f"{word} {name}" for word in words for name in "ab"]
    assert [e.split()[0] for e in events[10:]] == list(words)


def test_results_belong_to_a_machine_and_to_kernels(bench: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    empty = {"probes": {}, "smoke": [], "rows": []}
    assert bench.jobs.read(file, ABOUT) == {**ABOUT, **empty}
    rows = [{"case": "x", "engine": name} for name in ("cuda", "torch", "torch.compile")]
    file.write_text(json.dumps({**ABOUT, "probes": {"fp16": 1.0}, "smoke": [{"kernel": "k"}], "rows": rows}))
    assert bench.jobs.read(file, ABOUT)["rows"] == rows
    changed = bench.jobs.read(file, {**ABOUT, "kernels": "def"})  # torch is what it was
    assert (changed["rows"], changed["smoke"], changed["probes"]) == (rows[1:], [], {"fp16": 1.0})
    assert bench.jobs.read(file, {**ABOUT, "peers": "xyz"})["rows"] == rows[:1]
    assert bench.jobs.read(file, {**ABOUT, "torch": "3"}) == {**ABOUT, "torch": "3", **empty}
    for broken in ("{", "[]", '{"rows": 3}'):
        file.write_text(broken)
        assert bench.jobs.read(file, ABOUT)["rows"] == []


def test_every_phase_asks_for_engines_that_are_known(bench: ModuleType) -> None:
    for jobs in bench.phases().values():
        assert jobs
        for one in jobs:
            assert one.engine in (*bench.OURS, *bench.PEERS)
            assert one.engine in bench.gpu_worker.engines(one.case)
    assert bench.phases()["ours"][:3] == [
        bench.Job("anchored_regression x3", engine, "fp16") for engine in ("triton", "cuda", "torch")
    ]


def test_the_table_says_what_was_not_measured(bench: ModuleType) -> None:
    common = {"case": "cista", "precision": "fp16"}
    rows = [
        common | {"engine": "triton", "ms_median": 2.0, "tflops": 300.0, "tbps": 1.0},
        common | {"engine": "cuda", "failed": "KernelError"},
        common | {"engine": "torch", "ms_median": 3.0, "tflops": 200.0, "tbps": 0.7},
        common | {"case": "other", "engine": "torch", "ms_median": 3.0, "tflops": 200.0, "tbps": 0.7},
        common | {"precision": "fp8", "engine": "gpu", "ms_median": 1.0, "tflops": 600.0, "tbps": None},
    ]
    lines = bench.table(rows, {"fp16": 600.0, "fp8": 600.0, "tbps": 4.0}).splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    first, second, third = (
        dict(zip(head, (cell.strip() for cell in line.strip("|").split("|")), strict=True)) for line in lines[2:]
    )
    assert first["triton ms"] == "2.000"
    assert first["cuda ms"] == "not measured"
    assert first["gpu ms"] == "-"
    assert "torch.compile ms" not in head
    assert first["best peer / fastsr"] == "1.50"
    assert (first["TFLOP/s"], first["TB/s"], first["of roofline"]) == ("300.0", "1.00", "50 %")
    assert second["best peer / fastsr"] == second["of roofline"] == "not measured"
    assert third["best peer / fastsr"] == "3.00"  # torch in fp16
    for row in rows[2:4]:
        row["doubt"] = "it copies too much"
    line = bench.table(rows, {"fp16": 600.0, "fp8": 600.0, "tbps": 4.0}).splitlines()[2]
    assert "| 2.000 | not measured | - | (3.000) | in doubt | 300.0 |" in line


def test_kernels_that_failed_are_left_out(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = importlib.import_module("gpu_smoke")
    monkeypatch.setattr(smoke.jobs, "about", lambda: ABOUT)
    fake = tmp_path / "smoke.py"
    fake.write_text(
        "import json, sys, time\n"
        "name = sys.argv[2]\n"
        "if name == 'cista/wgmma 8x256': time.sleep(60)\n"
        "failed = {'cista/mma': 'KernelError: no', 'pconv_block': 'AssertionError: max abs error 3'}.get(name)\n"
        "print(json.dumps({'failed': failed} if failed else {'ok': True}), flush=True)\n"
    )
    monkeypatch.setattr(smoke, "__file__", str(fake))
    assert smoke.smoke(3.0) == 1
    rows = {row["kernel"]: row for row in json.loads((tmp_path / "results/a-gpu.json").read_text())["smoke"]}
    assert set(rows) == set(smoke.KERNELS)
    assert {name for name, row in rows.items() if not row["ok"]} == {"cista/mma", "cista/wgmma 8x256", "pconv_block"}
    assert set(smoke.excluded().split(";")) == {"cista", "cista/wgmma 8x256"}
    assert "no answer in 3 s" in (tmp_path / "out/faults.txt").read_text()


def test_excluded_kernels_decline(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from fastsr.kernels.cuda import cista, pconv_block, runtime

    pconv = {"w1": (64, 128, 1, 1), "w3": (128, 64, 3, 3)}
    codes = {"w": (256, 128, 3, 3), "s": (256, 256, 3, 3)}
    monkeypatch.setenv(runtime.EXCLUDE, "pconv_block;cista/wgmma 8x256")
    assert pconv_block.supports({}, pconv, torch.float16) == "FASTSR_EXCLUDE names pconv_block"
    assert cista.supports({}, codes, torch.float16) is None
    on = runtime.Device(0, "sm_90a", 132, 227 << 10)
    weights = cista.Convolution(torch.empty(2, 4, 9, 128, 64), lambda *_: None, "Fp16")
    found = cista.candidates(cista.Packed(weights, weights, (256, 256), on), torch.device("cpu"))
    assert found == ["mma", "wgmma 16x128"]


@pytest.mark.parametrize("engine", ["triton", "torch", "torch.compile"])
def test_a_worker_does_its_work(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, engine: str, tmp_path: Path
) -> None:
    """The worker itself, in Triton's interpreter and with a clock of its own."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from fastsr.benchmark import cases, gpu
    from fastsr.executors import devices
    from fastsr.gpu import tuning

    if not devices.interpreted():
        pytest.skip("kernels are compiled in this process")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    worker = bench.gpu_worker
    monkeypatch.setattr(worker, "DEVICE", "cpu")
    monkeypatch.setattr(worker, "_timed", lambda run, calls: (run(), 0.25)[1])
    monkeypatch.setattr(gpu, "_compiling", lambda mode: gpu._plain)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *a: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    monkeypatch.setattr(worker.Bench, "_capture", lambda self: None)
    monkeypatch.setattr(tuning, "CROP", 4)
    monkeypatch.setitem(worker.CASES, "small", (lambda c: cases.upsample_residual(2, 16), (7, 5)))
    made = worker.Bench("small", engine, "fp16")
    ready = made.prepare()
    assert ready["ready"]
    assert ready["flops"] > 0
    first = made.first()
    assert len(first["ms"]) == 3
    assert first["psnr_to_fp32"] > 50
    assert first["peak_bytes"] == 7
    if engine == "triton":
        assert all(row["seconds"] for row in first["candidates"])
        assert any(who.endswith("tuned") for who in first["who"])
        assert tuning.cache_file().parent.parent == tmp_path
    row = bench.row_of(bench.Job("btsrn_x3", engine, "fp16"), ready, first, [first["ms"], made.again()["ms"]], "a-gpu")
    assert row["ms_median"] == 250.0
    assert engine in bench.line(row)
    json.dumps(row)
    made.truth = made.truth + 1
    with pytest.raises(ValueError, match="differs from float32"):
        made.first()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_without_a_gpu_the_script_says_so(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(tools / "bash"), str(ROOT / "bench/gpu.sh")],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "gpu.sh: no NVIDIA GPU: nvidia-smi is not there, or finds none\n"
