# SPDX-License-Identifier: Apache-2.0
"""Times our GPU executors ("gpu" takes the fastest way of the others) against torch on one NVIDIA GPU.

    python bench/bench_gpu.py --phase ours compiled         bench/gpu.sh first finds out which kernels hang
    python bench/bench_gpu.py --engines triton torch --cases btsrn --precision fp16 bf16 --seconds 60

Same plan, weights, precision and input. A process per case and engine (gpu_worker.py): they load, compile and compare
with float32 side by side, then take turns on a GPU that nobody else uses, two turns each, so that a drift shows. One that
hangs is killed and becomes a row that says so. Every row is written to bench/results/<gpu>.json as it comes; what that
file holds already of these kernels is not measured again, and what failed comes last. The share of the roofline is that
of the longer of two times: the plan's FLOPs at the rate of a matrix product measured on the same GPU, and its values read
and written once a step at the rate of a copy. Under fp8 the peers run in fp16: torch has no convolutions of 8 bits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import gpu_worker
import jobs
from gpu_worker import CASES, OURS, PEERS
from jobs import JobError, Worker

PREPARE = 60.0
"""seconds until a worker must be ready; Triton's first compilation of a large kernel takes ten"""
FIRST, AGAIN = 40.0, 10.0
"""seconds of a turn: the first one chooses among candidates; an honest one takes two"""
LEAST = 15.0
"""seconds left without which no batch begins: none would become ready"""
TURN = 2.5
"""of the time left, what is set aside for each worker's turns"""


@dataclass(frozen=True)
class Job:
    case: str
    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.case} {self.precision} by {self.engine}"

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.case, self.engine, self.precision)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(Path(gpu_worker.__file__)), *self.key]


def every(engines: Iterable[str], precision: str, names: Sequence[str] = ("",)) -> list[Job]:
    """By case: a case is worth something when its engines are all there."""
    chosen = [case for case in CASES if any(name in case for name in names)]
    wanted = list(engines)
    return [Job(case, e, precision) for case in chosen for e in wanted if e in gpu_worker.engines(case)]


def phases() -> dict[str, list[Job]]:
    """What bench/gpu.sh asks for, in the order of its worth."""
    blocks = ("pconv", "btsrn", "cista", "crnet")
    return {
        "ours": every(("triton", "cuda", "torch"), "fp16"),
        "compiled": every(("torch.compile", "torch.compile best"), "fp16"),
        "gpu": every(("gpu",), "fp16"),
        "bf16": every(("triton", "cuda", "torch"), "bf16", blocks),
        "max": every(("torch.compile max",), "fp16"),
        "fp8": every(("triton", "cuda", "gpu"), "fp8", blocks),
    }


class Report:
    """bench/results/<gpu>.json, always whole."""

    def __init__(self, file: Path, about: dict[str, str]) -> None:
        self.file, self.data = file, jobs.read(file, about)

    def put(self, row: dict[str, Any]) -> None:
        key = [row[k] for k in ("case", "engine", "precision")]
        self.data["rows"] = [r for r in self.data["rows"] if [r.get(k) for k in ("case", "engine", "precision")] != key]
        self.data["rows"].append(row)
        self.save()

    def save(self) -> None:
        jobs.write(self.file, json.dumps(self.data, indent=1) + "\n")

    def left(self, wanted: Sequence[Job]) -> list[Job]:
        """What has no time yet; what failed before comes last."""
        rows = {(r["case"], r["engine"], r["precision"]): r for r in self.data["rows"]}
        open_ = [job for job in dict.fromkeys(wanted) if "ms_median" not in rows.get(job.key, {})]
        return sorted(open_, key=lambda job: job.key in rows)

    def was_late(self, job: Job) -> bool:
        rows = (row for row in self.data["rows"] if (row["case"], row["engine"], row["precision"]) == job.key)
        return any("preparing: no answer" in row.get("failed", "") for row in rows)


Start = Callable[[Job], Worker]


def start(job: Job) -> Worker:
    """A worker that leaves cores to the others; inductor, which compiles in processes of its own, may have some."""
    threads = {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "16" if job.engine.endswith("max") else "3"}
    log = jobs.WORK / "workers" / f"{job.case} {job.engine} {job.precision}.txt".replace(" ", "_")
    return Worker(job.command, log, threads)


def measure(
    report: Report,
    wanted: Sequence[Job],
    end: float,
    workers: int,
    begin: Start = start,
    busy: Path | None = None,  # while it exists, others use the GPU
) -> list[Job]:
    """Rows for the jobs in the report, as far as the time goes. Returns those that have none."""
    todo, again = report.left(wanted), True
    while todo and end - time.monotonic() > LEAST:
        exclusive = any(job.engine.endswith("max") for job in todo[:workers])  # it tunes by times
        batch, todo = todo[: 1 if exclusive else workers], todo[1 if exclusive else workers :]
        _batch(report, batch, end, begin, busy)
        if not todo and again:  # those that were late: what they compiled so far is in the cache
            again, todo = False, [job for job in report.left(wanted) if report.was_late(job)]
    return report.left(wanted)


def _batch(report: Report, batch: Sequence[Job], end: float, begin: Start, busy: Path | None) -> None:
    """Prepare side by side, then time one after the other."""
    began = time.monotonic()
    reserve = min(TURN * len(batch), (end - began) / 2)
    # Who shares the processor with others may take longer.
    prepared_by = began + min(PREPARE * (1.5 if _is(busy) else 1), end - began - reserve)
    running = {job: begin(job) for job in batch}
    ready: dict[Job, dict[str, Any]] = {}
    try:
        for job, worker in running.items():
            with _row_of_failure(report, job):
                ready[job] = worker.answer(prepared_by - time.monotonic(), f"{job}, preparing")
        print(f"{len(ready)} of {len(batch)} ready after {time.monotonic() - began:.0f} s", flush=True)
        while _is(busy) and time.monotonic() < end:
            time.sleep(0.1)
        first: dict[Job, dict[str, Any]] = {}
        for job in ready:
            with _row_of_failure(report, job):
                first[job] = _turn(running[job], "first", FIRST, end, job)
                report.put(row_of(job, ready[job], first[job], [first[job]["ms"]], report.data["machine"]))
                _keep_candidates(job, first[job])
                print(line(report.data["rows"][-1]), flush=True)
        for job, answer in first.items():
            try:
                again = _turn(running[job], "again", AGAIN, end, job)["ms"]
            except JobError as e:  # one turn is there
                jobs.fault(str(job), str(e))
                continue
            report.put(row_of(job, ready[job], answer, [answer["ms"], again], report.data["machine"]))
    finally:
        for worker in running.values():
            worker.kill()


def _is(busy: Path | None) -> bool:
    return busy is not None and busy.exists()


def _turn(worker: Worker, word: str, limit: float, end: float, job: Job) -> dict[str, Any]:
    left = end - time.monotonic()
    if left < 0.5:
        raise JobError("no time was left for its turn")
    worker.say(word)
    return worker.answer(min(limit, left), f"{job}, {word} turn")


class _row_of_failure:
    """A failure becomes a row of one line, and its whole text is kept."""

    def __init__(self, report: Report, job: Job) -> None:
        self.report, self.job = report, job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, JobError):
            return False
        job, said = self.job, str(error).splitlines()[0][:300]
        jobs.fault(str(job), str(error))
        row = {"case": job.case, "engine": job.engine, "precision": job.precision, "failed": said}
        self.report.put(row)
        print(line(row), flush=True)
        return True


def row_of(
    job: Job, ready: dict[str, Any], first: dict[str, Any], turns: Sequence[Sequence[float]], machine: str
) -> dict[str, Any]:
    """Milliseconds of all rounds of both turns; the turns' own medians show how steady the machine was."""
    times = [t for turn in turns for t in turn]
    median = statistics.median(times)
    return {
        "case": job.case,
        "engine": job.engine,
        "precision": job.precision,
        "input": list(CASES[job.case][1]),
        "device": machine,
        "ms_median": median,
        "ms_min": min(times),
        "ms_turns": [statistics.median(turn) for turn in turns],
        "ms_latency": first.get("ms_latency"),
        "graph": first.get("graph"),
        "psnr_to_fp32": first.get("psnr_to_fp32"),
        "peak_bytes": first.get("peak_bytes"),
        "tflops": ready["flops"] / median / 1e9,
        "tbps": ready["traffic"] / median / 1e9 if ready.get("traffic") else None,
        "who": first.get("who"),
    }


def line(row: dict[str, Any]) -> str:
    """A row for whoever watches."""
    name = f"{row['case']:24} {row['precision']:5} {row['engine']:19}"
    if "failed" in row:
        return f"{name} FAILED {row['failed']}"
    psnr = row["psnr_to_fp32"]
    return f"{name} {row['ms_median']:9.3f} ms {row['tflops']:7.1f} TFLOP/s {psnr if psnr is not None else 'exact'} dB"


def _keep_candidates(job: Job, first: dict[str, Any]) -> None:
    """What tuning measured, for the kernels' authors."""
    lines = [json.dumps({"job": str(job), **row}) for row in first.get("candidates") or []]
    if lines:
        jobs.append(jobs.WORK / "tuning.jsonl", "\n".join(lines) + "\n")


def table(rows: list[dict[str, Any]], probes: dict[str, Any]) -> str:
    """Markdown: per case and precision the engines' milliseconds, the best peer over the best of ours, share of the roofline."""
    names = (*OURS, *PEERS)
    head = ["case", "precision", *(f"{name} ms" for name in names)]
    head += ["best peer / fastsr", "TFLOP/s", "TB/s", "of roofline"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    by_half = {r["case"]: {} for r in rows}  # type: dict[str, dict[str, dict[str, Any]]]
    for row in rows:
        if row["precision"] == "fp16" and row["engine"] in PEERS:
            by_half[row["case"]][row["engine"]] = row
    for case, precision in dict.fromkeys((row["case"], row["precision"]) for row in rows):
        mine = {r["engine"]: r for r in rows if (r["case"], r["precision"]) == (case, precision)}
        mine |= by_half[case] if precision == "fp8" else {}
        ms = {name: row["ms_median"] for name, row in mine.items() if "ms_median" in row}
        ours, peers = (sorted((ms[n], n) for n in group if n in ms) for group in (OURS, PEERS))
        cells = [f"{ms[n]:.3f}" if n in ms else "-" if n not in mine else "not measured" for n in names]
        cells.append(f"{peers[0][0] / ours[0][0]:.2f}" if ours and peers else "not measured")
        best = mine[ours[0][1]] if ours else {}
        if ours and precision in probes:
            share = max(best["tflops"] / probes[precision], (best["tbps"] or 0) / probes["tbps"])
            cells += [f"{best['tflops']:.1f}", f"{best['tbps'] or 0:.2f}", f"{100 * share:.0f} %"]
        else:
            cells += ["not measured"] * 3
        lines.append(f"| {case} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def probe(report: Report) -> None:
    """The GPU's own rates, once."""
    if report.data["probes"]:
        return
    worker = Worker([sys.executable, gpu_worker.__file__, "probe"], jobs.WORK / "workers/probe.txt")
    try:
        report.data["probes"] = worker.answer(40, "probe")
        report.save()
        print(json.dumps(report.data["probes"]), flush=True)
    except JobError as e:
        jobs.fault("probe", str(e))
        print(f"probe FAILED {str(e).splitlines()[0]}", flush=True)
    finally:
        worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = phases()
    parser.add_argument("--phase", nargs="+", choices=[*known, "probe", "none"], help="default: by the next three")
    parser.add_argument("--precision", nargs="+", default=["fp16"], choices=["fp32", "tf32", "fp16", "bf16", "fp8"])
    parser.add_argument("--engines", nargs="+", default=[*OURS, "torch", "torch.compile", "torch.compile best"])
    parser.add_argument("--cases", nargs="+", default=[""], help="parts of names; default: all")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all of it")
    parser.add_argument("--while-not", type=Path, help="nothing is timed while this file exists: others use the GPU")
    parser.add_argument("--table", action="store_true", help="print what the file holds, and measure nothing")
    parser.add_argument("--workers", type=int, default=max(1, min(12, (os.cpu_count() or 1) - 2)))
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    about = jobs.about()
    report = Report(jobs.RESULTS / f"{about['machine']}.json", about)
    wanted = [job for phase in options.phase or () for job in known.get(phase, ())]
    if not options.phase:
        wanted = [job for p in options.precision for job in every(options.engines, p, options.cases)]
    if options.table:
        print(table(report.data["rows"], report.data["probes"]))
        return
    probe(report)
    left = measure(report, wanted, end, options.workers, busy=options.while_not)
    if left:
        print(f"not measured, run again to go on: {', '.join(map(str, left))}"[:1500])
    if not options.phase:
        print(table(report.data["rows"], report.data["probes"]))


if __name__ == "__main__":
    main()
