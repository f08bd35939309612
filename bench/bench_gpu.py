# SPDX-License-Identifier: Apache-2.0
"""Times our GPU executors ("gpu" takes the fastest way of the others) against torch on one NVIDIA GPU.

    python bench/bench_gpu.py --phase ours compiled         bench/gpu.sh first finds out which kernels hang
    python bench/bench_gpu.py --engines triton torch --cases btsrn --precision fp16 bf16 --seconds 60

Same plan, weights, precision and input. A process per case and engine (gpu_worker.py): they load, compile and compare
with float32 side by side; those that are ready take turns on a GPU that nobody else uses, two turns each, so that a drift
shows, while the others stand still. One that hangs is killed and becomes a row that says what it was doing. Every row is written to bench/results/<gpu>.json as it comes; what that
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import gpu_worker
import jobs
from gpu_worker import CASES, OURS, PEERS
from jobs import JobError, Worker

PREPARE = 60.0
"""seconds in which a worker must be ready, those in which it stood still not counted; Triton's first compilation of a
large kernel takes ten"""
STALLED = 30.0
"""of them, on one thing, which ours and eager torch name"""
ROUND = 20.0
"""seconds after which those that are ready are timed, and the others stopped meanwhile"""
SETTLE = 0.3
"""seconds in which the GPU ends what the stopped had asked for"""
FIRST, AGAIN = 40.0, 10.0
"""seconds of a turn: the first one chooses among candidates; an honest one takes two"""
LEAST = 15.0
"""seconds left without which no worker begins: it would not become ready"""
TURN = 2.0
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
        return any("not ready after" in row.get("failed", "") for row in rows)


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
    """Rows for the jobs in the report, as far as the time goes. Returns those that have none.

    As many as `workers` prepare side by side. Now and then those that are ready take turns on the GPU while the others
    stand still, so that one that takes long keeps nobody waiting.
    """
    todo, again = report.left(wanted), True
    pool: dict[Job, Worker] = {}
    try:
        while todo or pool:
            while todo and end - time.monotonic() > LEAST and _may_join(todo[0], pool, workers):
                pool[todo[0]] = begin(todo[0])
                del todo[0]
            if not pool:
                break
            ready = _prepare(report, pool, end, busy)
            waiting = [worker for job, worker in pool.items() if job not in ready]
            for worker in waiting:
                worker.pause()
            _take_turns(report, pool, ready, end, SETTLE if waiting else 0.0)
            for job in ready:
                pool.pop(job).kill()
            for worker in waiting:
                worker.resume()
            if not todo and not pool and again:  # those that were late: what they compiled so far is in the cache
                again, todo = False, [job for job in report.left(wanted) if report.was_late(job)]
    finally:
        for worker in pool.values():
            worker.kill()
    return report.left(wanted)


def _may_join(job: Job, pool: Mapping[Job, Worker], workers: int) -> bool:
    """What tunes by times prepares alone."""
    alone = any(one.engine.endswith("max") for one in (job, *pool))
    return len(pool) < (1 if alone else workers)


def _prepare(report: Report, pool: dict[Job, Worker], end: float, busy: Path | None) -> dict[Job, dict[str, Any]]:
    """The answers of those that are ready when it is time to time them. Who fails or is late leaves the pool for a row."""
    began, ready = time.monotonic(), dict[Job, dict[str, Any]]()
    up = end - min(TURN * len(pool), (end - began) / 2)
    while True:
        now = time.monotonic()
        waiting = [job for job in pool if job not in ready]
        for job in waiting:
            worker, what = pool[job], f"{job}, preparing"
            slower = 1.5 if _is(busy) or job.engine.startswith("torch.compile") else 1.0
            try:
                if (answer := worker.poll(what)) is not None:
                    ready[job] = answer
                elif now - worker.began > slower * PREPARE:
                    worker.give_up(f"{what}: not ready after {slower * PREPARE:.0f} s")
                elif now - worker.since > slower * STALLED and not job.engine.startswith("torch.compile"):
                    worker.give_up(f"{what}: stalled for {slower * STALLED:.0f} s")
                elif now > up:
                    worker.give_up(f"{what}: time was up")
            except JobError as e:
                failed(report, job, e)
                del pool[job]
        if now > up or not pool:
            break
        if not _is(busy) and (len(ready) == len(pool) or (ready and now - began > ROUND)):
            break
        time.sleep(0.02)
    print(f"{len(ready)} ready after {time.monotonic() - began:.0f} s, {len(pool) - len(ready)} not yet", flush=True)
    while ready and _is(busy) and time.monotonic() < end:
        time.sleep(0.1)
    return ready


def _take_turns(
    report: Report, pool: Mapping[Job, Worker], ready: Mapping[Job, dict[str, Any]], end: float, settle: float
) -> None:
    """Time one after the other, twice."""
    if ready:
        time.sleep(settle)
    first: dict[Job, dict[str, Any]] = {}
    for job in ready:
        try:
            first[job] = _turn(pool[job], "first", FIRST, end, job)
            report.put(row_of(job, ready[job], first[job], [first[job]["ms"]], report.data["machine"]))
            _keep_candidates(job, first[job])
            print(line(report.data["rows"][-1]), flush=True)
        except JobError as e:
            failed(report, job, e)
    for job, answer in first.items():
        try:
            again = _turn(pool[job], "again", AGAIN, end, job)["ms"]
        except JobError as e:  # one turn is there
            jobs.fault(str(job), str(e))
            continue
        report.put(row_of(job, ready[job], answer, [answer["ms"], again], report.data["machine"]))


def _is(busy: Path | None) -> bool:
    return busy is not None and busy.exists()


def _turn(worker: Worker, word: str, limit: float, end: float, job: Job) -> dict[str, Any]:
    left = end - time.monotonic()
    if left < 0.5:
        raise JobError("no time was left for its turn")
    worker.say(word)
    return worker.answer(min(limit, left), f"{job}, {word} turn")


def failed(report: Report, job: Job, error: JobError) -> None:
    """A failure becomes a row of one line, and its whole text is kept."""
    jobs.fault(str(job), str(error))
    said = str(error).splitlines()[0][:300]
    row = {"case": job.case, "engine": job.engine, "precision": job.precision, "failed": said}
    report.put(row)
    print(line(row), flush=True)


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
    """Markdown: per case and precision the engines' milliseconds, the best peer over the best of ours, share of the roofline.

    A row with a "doubt" is in brackets, and no part of the ratio. Engines that nobody asked for have no column.
    """
    by_half = {r["case"]: {} for r in rows}  # type: dict[str, dict[str, dict[str, Any]]]
    for row in rows:
        if row["precision"] == "fp16" and row["engine"] in PEERS:
            by_half[row["case"]][row["engine"]] = row
    names = [name for name in (*OURS, *PEERS) if any(row["engine"] == name for row in rows)]
    head = ["case", "precision", *(f"{name} ms" for name in names)]
    head += ["best peer / fastsr", "TFLOP/s", "TB/s", "of roofline"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for case, precision in dict.fromkeys((row["case"], row["precision"]) for row in rows):
        mine = {r["engine"]: r for r in rows if (r["case"], r["precision"]) == (case, precision)}
        mine |= by_half[case] if precision == "fp8" else {}
        sure = {n: r["ms_median"] for n, r in mine.items() if "ms_median" in r and "doubt" not in r}
        ours, peers = (sorted((sure[n], n) for n in group if n in sure) for group in (OURS, PEERS))
        cells = [_cell(mine.get(name)) for name in names]
        doubted = any(name in PEERS and "doubt" in row for name, row in mine.items())
        unknown = "in doubt" if doubted and ours else "not measured"
        cells.append(f"{peers[0][0] / ours[0][0]:.2f}" if ours and peers else unknown)
        best = mine[ours[0][1]] if ours else {}
        if ours and precision in probes:
            share = max(best["tflops"] / probes[precision], (best["tbps"] or 0) / probes["tbps"])
            cells += [f"{best['tflops']:.1f}", f"{best['tbps'] or 0:.2f}", f"{100 * share:.0f} %"]
        else:
            cells += ["not measured"] * 3
        lines.append(f"| {case} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if "ms_median" not in row:
        return "not measured"
    return f"({row['ms_median']:.3f})" if "doubt" in row else f"{row['ms_median']:.3f}"


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
    parser.add_argument(
        "--table", nargs="?", const="", metavar="FILE", help="print what the results hold, and measure nothing"
    )
    parser.add_argument("--workers", type=int, default=max(1, min(12, (os.cpu_count() or 1) - 2)))
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    if options.table:  # of another machine
        kept = json.loads(Path(options.table).read_text())
        print(table(kept["rows"], kept["probes"]))
        return
    about = jobs.about()
    report = Report(jobs.RESULTS / f"{about['machine']}.json", about)
    wanted = [job for phase in options.phase or () for job in known.get(phase, ())]
    if not options.phase:
        wanted = [job for p in options.precision for job in every(options.engines, p, options.cases)]
    if options.table is not None:
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
