# SPDX-License-Identifier: Apache-2.0
"""Times our GPU executors ("gpu" takes the faster of the others) against torch on one NVIDIA GPU (fastsr.benchmark.gpu).

    python bench/bench_gpu.py --tune               bench/gpu.sh runs the tests first
    python bench/bench_gpu.py --precision fp16 --cases btsrn --minutes 2

Same plan, weights, precision and input; outputs are compared before anything is timed; engines take turns; medians. The
share of the roofline is that of the longer of two times: the plan's FLOPs at the rate of a matrix product measured in the
same run, and its values read and written once a step at the rate of a copy. Writes bench/results/<gpu>.json after every
case and prints a table; what the file holds already of these kernels is not measured again.
Under fp8 the peers run in fp16, in which the matrix product is as well: torch has no convolutions of 8 bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastsr import executors
from fastsr.benchmark import cases
from fastsr.benchmark.cases import Case
from fastsr.errors import DeviceError
from fastsr.executors import devices, tuning
from fastsr.executors.gpu import PRECISIONS, GpuExecutor

RESULTS = Path(__file__).parent / "results"
PEERS = ("torch", "torch.compile", "torch.compile best")
FRAME = (640, 360)
"""of the input: 1920 x 1080 at x3"""
PSNR = {"fp8": 40.0}
"""an engine further from float32 than this, 50 dB in other precisions, is not timed"""


def wanted(names: list[str]) -> list[Case]:
    """The ops with a kernel of their own and whole networks, at 1080p output but for CRNet (its paper's sizes)."""
    every = [
        cases.anchored_regression(3),
        cases.pconv_block(),
        cases.cista(),
        cases.cista(64, 1024),
        cases.model("annet_x3"),
        *cases.networks(),
    ]
    return [case for case in every if not names or any(name in case.name for name in names)]


def frame_of(case: Case) -> tuple[int, int]:
    if case.name.startswith("crnet"):
        return case.size(*FRAME)
    return FRAME[0] * case.upscaled, FRAME[1] * case.upscaled


def engines(case: Case, precision: str) -> dict[str, Callable[[Any], Any]]:
    """name -> tensor to tensor."""

    from fastsr.benchmark import gpu

    plan, weights = case.plan, case.weights
    made = {name: executors.get(name).prepare(plan, weights, precision=precision) for name in executors.GPU}
    found = {name: prepared.run_tensor for name, prepared in made.items()}  # type: ignore[attr-defined]
    found["torch"] = gpu.eager(plan, weights, precision, "cuda").run_tensor
    found["torch.compile"] = gpu.compiled(plan, weights, precision, "cuda")
    if any(step.op == gpu.ANCHORED for step in plan.steps):
        found["torch.compile best"] = gpu.compiled(plan, weights, precision, "cuda", best_anchored=True)
    return found


def seconds(run: Callable[[], Any]) -> float:
    """One call on the GPU."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return 1e-3 * float(begin.elapsed_time(end))


def probe(precision: str) -> dict[str, float]:
    """TFLOP/s of a matrix product of 8192 in the dtype, TB/s of copying 1 GiB (read and written)."""
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    product = statistics.median(seconds(lambda: a @ b) for _ in range(20))
    torch.backends.cuda.matmul.allow_tf32 = before
    big = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    copy = statistics.median(seconds(lambda: other.copy_(big)) for _ in range(20))
    return {"tflops": 2 * 8192**3 / product / 1e12, "tbps": 2 * (1 << 30) / copy / 1e12}


def measure(case: Case, precision: str, tune: bool, rounds: int = 30) -> list[dict[str, Any]]:
    """A row per engine: median and least milliseconds, TFLOP/s of the plan's own FLOPs, error against fp32."""
    import torch

    w, h = frame_of(case)
    x = torch.rand(1, case.plan.channels, h, w, device="cuda")
    x = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, (2, 2, 2, 2), "replicate"), 5, 1
    )  # smooth as images are
    truth = GpuExecutor("torch", ("torch",)).prepare(case.plan, case.weights, precision="fp32").run_tensor(x)
    rows, ready = [], {}
    made = engines(case, precision)
    ours = made["triton"].__self__  # type: ignore[attr-defined]
    flops, traffic = ours.session.flops(h, w), ours.traffic(1, h, w)
    for name, run in made.items():
        row: dict[str, Any] = {
            "case": case.name,
            "engine": name,
            "precision": precision,
            "input": [w, h],
            "device": devices.name(x.device),
        }
        try:
            if tune and name in executors.GPU:
                row["candidates"] = run.__self__.tune(1, h, w)  # type: ignore[attr-defined]
            for _ in range(3):  # compiles, then captures, then replays
                out = run(x)
            error = float((out - truth).square().mean())
            row["psnr_to_fp32"] = None if error == 0 else round(-10 * torch.log10(torch.tensor(error)).item(), 2)
            if error > 10 ** (-PSNR.get(precision, 50.0) / 10):
                row["skipped"] = f"output differs: {row['psnr_to_fp32']} dB"
            else:
                ready[name] = run
        except Exception as e:  # an engine that cannot run a case is a row, not the end
            row["skipped"] = f"{type(e).__name__}: {e}"[:200]
        rows.append(row)
    times: dict[str, list[float]] = {name: [] for name in ready}
    with torch.no_grad():
        for _ in range(rounds):
            for name, run in ready.items():
                times[name].append(seconds(lambda run=run: run(x)))  # type: ignore[misc]
    for row in rows:
        if times.get(row["engine"]):
            median = statistics.median(times[row["engine"]])
            row |= {
                "ms_median": 1e3 * median,
                "ms_min": 1e3 * min(times[row["engine"]]),
                "tflops": flops / median / 1e12,
                "tbps": traffic / median / 1e12,
            }
    return rows


def table(rows: list[dict[str, Any]], probes: dict[str, dict[str, float]]) -> str:
    """Markdown: per case and precision the engines' milliseconds, the best peer over the best of ours, share of the roofline."""
    engines = (*executors.GPU, *PEERS)
    head = [
        "case",
        "precision",
        *(f"{name} ms" for name in engines),
        "best peer / fastsr",
        "TFLOP/s",
        "TB/s",
        "of roofline",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for case, precision in dict.fromkeys((row["case"], row["precision"]) for row in rows):
        mine = {r["engine"]: r for r in rows if (r["case"], r["precision"]) == (case, precision)}
        ms = {name: row["ms_median"] for name, row in mine.items() if "ms_median" in row}
        ours, peers = (sorted((ms[n], n) for n in names if n in ms) for names in (executors.GPU, PEERS))
        cells = [f"{ms[n]:.3f}" if n in ms else "-" if n not in mine else "not measured" for n in engines]
        cells.append(f"{peers[0][0] / ours[0][0]:.2f}" if ours and peers else "not measured")
        if ours:
            best, probe = mine[ours[0][1]], probes[precision]
            share = max(best["tflops"] / probe["tflops"], best["tbps"] / probe["tbps"])
            cells += [f"{best['tflops']:.1f}", f"{best['tbps']:.2f}", f"{100 * share:.0f} %"]
        else:
            cells += ["not measured"] * 3
        lines.append(f"| {case} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["fp16"], choices=list(PRECISIONS))
    parser.add_argument("--cases", nargs="+", default=[], help="parts of names; default: all")
    parser.add_argument("--minutes", type=float, default=8.0, help="no further case begins when they are spent")
    parser.add_argument("--tune", action="store_true", help="choose kernels' candidates first; kept in the cache")
    options = parser.parse_args()
    missing = devices.missing("cuda")
    if missing:
        raise DeviceError(f"device 'cuda': {missing}")
    import torch

    began = time.monotonic()
    name = devices.name(torch.device("cuda")).replace(" ", "-")
    file = RESULTS / f"{name}.json"
    report = begun(file, {"machine": name, "torch": torch.__version__, "kernels": tuning.kernels_hash()})
    for precision in options.precision:
        report["probes"][precision] = probe(precision)
        for case in wanted(options.cases):
            if (case.name, precision) in {(row["case"], row["precision"]) for row in report["rows"]}:
                continue
            if time.monotonic() - began > 60 * options.minutes:
                print(f"{case.name} {precision}: not measured, run again to go on")
                continue
            rows = measure(case, precision, options.tune)
            report["rows"] += rows
            file.write_text(json.dumps(report, indent=1))
            torch.cuda.empty_cache()
            print(table(rows, report["probes"]).splitlines()[-1], flush=True)
    print(table(report["rows"], report["probes"]))


def begun(file: Path, about: dict[str, str]) -> dict[str, Any]:
    """The report of an earlier run with the same machine, torch and kernels, to go on with; else an empty one."""
    try:
        report: dict[str, Any] = json.loads(file.read_text())
        if {key: report[key] for key in about} == about:
            return report
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {**about, "probes": {}, "rows": []}


if __name__ == "__main__":
    main()
