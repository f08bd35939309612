# SPDX-License-Identifier: Apache-2.0
"""Times our GPU executors against torch on one NVIDIA GPU: eager (channels_last, cudnn.benchmark) and torch.compile.

    python bench/bench_gpu.py --tune               about eight minutes; bench/gpu.sh runs the tests first
    python bench/bench_gpu.py --precision fp16 --cases btsrn --minutes 2

Same plan, weights, precision and input; outputs are compared before anything is timed; engines take turns; medians. Beside
them a matrix product and a copy of the same run, of which a share is given. Writes bench/results/<gpu>.json, prints a table.
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
from fastsr.executors import devices
from fastsr.executors.gpu import PRECISIONS, GpuExecutor

RESULTS = Path(__file__).parent / "results"
PEERS = ("torch", "torch.compile")
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
        cases.model("annet_x3"),
        *cases.networks(),
    ]
    return [case for case in every if not names or any(name in case.name for name in names)]


def frame_of(case: Case) -> tuple[int, int]:
    if case.name.startswith("crnet"):
        return case.size(*FRAME)
    return FRAME[0] * case.upscaled, FRAME[1] * case.upscaled


def engines(case: Case, precision: str, compile_peer: bool) -> dict[str, Callable[[Any], Any]]:
    """name -> tensor to tensor."""
    import torch

    made: dict[str, Any] = {}
    for name in executors.GPU:
        made[name] = executors.get(name).prepare(case.plan, case.weights, precision=precision)
    eager = GpuExecutor("torch", ("torch",)).prepare(case.plan, case.weights, precision=precision)
    found = {name: prepared.run_tensor for name, prepared in made.items()} | {"torch": eager.run_tensor}
    if compile_peer:
        found["torch.compile"] = torch.compile(eager._eager, mode="max-autotune-no-cudagraphs")
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


def measure(case: Case, precision: str, compile_peer: bool, tune: bool, rounds: int = 30) -> list[dict[str, Any]]:
    """A row per engine: median and least milliseconds, TFLOP/s of the plan's own FLOPs, error against fp32."""
    import torch

    w, h = frame_of(case)
    x = torch.rand(1, case.plan.channels, h, w, device="cuda")
    x = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, (2, 2, 2, 2), "replicate"), 5, 1
    )  # smooth as images are
    truth = GpuExecutor("torch", ("torch",)).prepare(case.plan, case.weights, precision="fp32").run_tensor(x)
    flops = executors.get("triton").prepare(case.plan, case.weights).session.flops(h, w)  # type: ignore[attr-defined]
    rows, ready = [], {}
    for name, run in engines(case, precision, compile_peer).items():
        row = {
            "case": case.name,
            "engine": name,
            "precision": precision,
            "input": [w, h],
            "device": devices.name(x.device),
        }
        try:
            if tune and name in executors.GPU:
                run.__self__.tune(1, h, w)  # type: ignore[attr-defined]
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
            }
    return rows


def table(rows: list[dict[str, Any]], probes: dict[str, dict[str, float]]) -> str:
    """Markdown: per case and precision the engines' milliseconds, the best peer over the best of ours, share of the probe."""
    lines = [
        "| case | precision | triton ms | cuda ms | torch ms | torch.compile ms | best peer / fastsr | TFLOP/s | of GEMM |"
    ]
    lines.append("|" + "---|" * 9)
    for case, precision in dict.fromkeys((row["case"], row["precision"]) for row in rows):
        mine = {r["engine"]: r for r in rows if (r["case"], r["precision"]) == (case, precision)}
        ms = {name: row["ms_median"] for name, row in mine.items() if "ms_median" in row}
        ours, peers = ([ms[n] for n in names if n in ms] for names in (executors.GPU, PEERS))
        shown = [f"{ms[n]:.3f}" if n in ms else "not measured" for n in (*executors.GPU, *PEERS)]
        rate = max((mine[n]["tflops"] for n in executors.GPU if n in ms), default=0.0)
        ratio = f"{min(peers) / min(ours):.2f}" if ours and peers else "not measured"
        share = f"{100 * rate / probes[precision]['tflops']:.0f} %"
        lines.append(f"| {case} | {precision} | {' | '.join(shown)} | {ratio} | {rate:.1f} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["fp16"], choices=list(PRECISIONS))
    parser.add_argument("--cases", nargs="+", default=[], help="parts of names; default: all")
    parser.add_argument("--minutes", type=float, default=7.0, help="torch.compile is left out when they are spent")
    parser.add_argument("--tune", action="store_true", help="choose kernels' candidates first; kept in the cache")
    options = parser.parse_args()
    missing = devices.missing("cuda")
    if missing:
        raise DeviceError(f"device 'cuda': {missing}")
    import torch

    began = time.monotonic()
    probes = {precision: probe(precision) for precision in options.precision}
    rows: list[dict[str, Any]] = []
    for precision in options.precision:
        for case in wanted(options.cases):
            left = options.minutes - (time.monotonic() - began) / 60
            rows += measure(case, precision, left > 0, options.tune)
            torch.cuda.empty_cache()
            print(table(rows[-4:], probes).splitlines()[-1], flush=True)
    name = devices.name(torch.device("cuda")).replace(" ", "-")
    report = {"machine": name, "torch": torch.__version__, "probes": probes, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1))
    print(table(rows, probes))


if __name__ == "__main__":
    main()
