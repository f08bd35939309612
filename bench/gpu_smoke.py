# SPDX-License-Identifier: Apache-2.0
"""Which CUDA kernels and candidates hang, fault or compute something else on this GPU: each tried in its own process.

python bench/gpu_smoke.py                    tries them side by side, results into bench/results/<gpu>.json
python bench/gpu_smoke.py --excluded         prints what FASTSR_EXCLUDE should hold, after that
python bench/gpu_smoke.py --sanitizer        the same under compute-sanitizer's memcheck and racecheck, on small images
python bench/gpu_smoke.py one NAME           one of them, here: "pconv_block", "cista/wgmma 8x256"
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import jobs
from jobs import JobError, Worker

KERNELS = (
    "anchored_regression",
    "pconv_block",
    "cista/mma",
    "cista/wgmma 16x128",
    "cista/wgmma 8x256",
    "cista/wgmma 16x64",
)
FRAMES = ((1, 1, 1), (2, 67, 33), (1, 130, 257))
"""batch, height, width: a pixel, parts of tiles, more tiles than a GPU has processors"""
SMALL = ((1, 19, 35),)
LIMIT = 40.0
WRONG = "AssertionError"
TOOLS = ("memcheck", "racecheck")


def one(name: str, frames: Sequence[tuple[int, int, int]]) -> None:
    """Compare a kernel with float64, several times over: a race does not show at once. Raises what it finds."""
    import torch

    gpu = torch.device("cuda")
    op, _, config = name.partition("/")
    torch.manual_seed(1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in (torch.float16, torch.bfloat16):
        for n, h, w in frames:
            {"anchored_regression": _anchored, "pconv_block": _pconv, "cista": _cista}[op](config, dtype, gpu, n, h, w)
            print(f"{name} {dtype} {n}x{h}x{w} is right", file=sys.stderr, flush=True)


def _compare(launch: Callable[[], Any], formula: Callable[[Any], Any], dtype: Any) -> None:
    """formula(dtype) is the op by torch."""
    import torch

    from fastsr.testing import assert_as_near, precision_of

    first = launch()
    torch.cuda.synchronize()
    assert_as_near(first, formula(torch.float64), formula(dtype), precision_of(first))
    for _ in range(3):
        assert torch.equal(first, launch()), "the same launch gave something else"


def _random(*shape: int) -> Any:
    import torch

    w = torch.randn(shape)
    return w / (w[0].numel() ** 0.5 if w.ndim == 4 else 1)


def _image(n: int, c: int, h: int, w: int, dtype: Any, gpu: Any) -> Any:
    import torch

    return torch.randn(n, c, h, w, device=gpu).to(dtype, memory_format=torch.channels_last)


def _to(weights: dict[str, Any], like: Any) -> dict[str, Any]:
    return {role: w.to(like.device, like.dtype) for role, w in weights.items()}


def _pconv(config: str, dtype: Any, gpu: Any, n: int, h: int, w: int) -> None:
    from fastsr.kernels.cuda import pconv_block
    from fastsr.ops.pconv_block import reference

    weights = {"w1": _random(64, 128, 1, 1), "b1": _random(64), "w3": _random(128, 64, 3, 3), "b3": _random(128)}
    x, how = _image(n, 128, h, w, dtype, gpu), {"activation": "leaky_relu", "slope": 0.2}
    packed = pconv_block.pack(weights, how, dtype, gpu)
    _compare(
        lambda: pconv_block.launch(packed, x, **how),
        lambda kind: reference(x.to(kind), **_to(weights, x.to(kind)), **how),
        dtype,
    )


def _cista(config: str, dtype: Any, gpu: Any, n: int, h: int, w: int) -> None:
    from fastsr.kernels.cuda import cista
    from fastsr.ops.cista import reference

    for n0, m0 in ((128, 256), (64, 1024)) if h < 100 else ((128, 256),):
        weights = {"w": _random(m0, n0, 3, 3), "s": 0.5 * _random(m0, m0, 3, 3)}
        y = _image(n, n0, h, w, dtype, gpu)
        packed = cista.pack(weights, {}, dtype, gpu)
        _compare(
            lambda y=y, packed=packed: cista.launch(packed, y, steps=3, config=config),  # type: ignore[misc]
            lambda kind, y=y, weights=weights: reference(y.to(kind), **_to(weights, y.to(kind)), steps=3),  # type: ignore[misc]
            dtype,
        )


def _anchored(config: str, dtype: Any, gpu: Any, n: int, h: int, w: int) -> None:
    """Anchors may differ on near-ties: here most pixels have to be near, tests/cuda compares the anchors."""
    import torch

    from fastsr.kernels.cuda import anchored_regression
    from fastsr.ops.anchored_regression import reference
    from fastsr.testing import anchored_weights

    for scale in (2, 3, 4):
        weights = {k: torch.from_numpy(v) for k, v in anchored_weights(scale, 9, 30, 1024, scale).items()}
        x = torch.rand(n, 1, h, w, device=gpu)
        base = torch.nn.functional.interpolate(x, scale_factor=scale)
        packed = anchored_regression.pack(weights, {"scale": scale}, torch.float32, gpu)
        out = anchored_regression.launch(packed, x, base, scale=scale)
        torch.cuda.synchronize()
        expected = reference(x.double(), base.double(), **_to(weights, x.double()), scale=scale)
        far = float(((out - expected).abs() > 2e-4).float().mean())
        assert far < 0.05 + 300 / out.numel(), f"x{scale}: {100 * far:.2f} % of the pixels are far from float64"
        for _ in range(3):
            again = anchored_regression.launch(packed, x, base, scale=scale)
            assert torch.equal(out, again), "the same launch gave something else"


def attempt(name: str, limit: float) -> dict[str, Any]:
    """One kernel in a process of its own."""
    began = time.monotonic()
    worker = Worker([sys.executable, __file__, "one", name], _log(f"smoke {name}"))
    try:
        worker.answer(limit, f"kernel {name}")
        return {"kernel": name, "ok": True, "seconds": round(time.monotonic() - began, 1)}
    except JobError as e:
        jobs.fault(f"kernel {name}", str(e))
        return {"kernel": name, "ok": False, "failed": str(e).splitlines()[0][:300]}
    finally:
        worker.kill()


def _log(name: str) -> Path:
    return jobs.WORK / "workers" / f"{name}.txt".replace("/", "_").replace(" ", "_")


def smoke(limit: float) -> int:
    about = jobs.about()
    file = jobs.RESULTS / f"{about['machine']}.json"
    report = jobs.read(file, about)
    done = {row["kernel"] for row in report["smoke"]}
    with ThreadPoolExecutor(len(KERNELS)) as pool:
        for made in as_completed([pool.submit(attempt, name, limit) for name in KERNELS if name not in done]):
            row = made.result()
            report["smoke"].append(row)
            jobs.write(file, json.dumps(report, indent=1) + "\n")
            print(f"{row['kernel']:22} {'right' if row['ok'] else 'FAILED ' + row['failed']}", flush=True)
    return int(not all(row["ok"] for row in report["smoke"]))


def excluded() -> str:
    """What hung, faulted or could not be loaded. What is only wrong may be tried: tuning and the benchmark compare.

    cista's first candidate stands for the whole kernel: it is what runs untuned.
    """
    about = jobs.about()
    rows = jobs.read(jobs.RESULTS / f"{about['machine']}.json", about)["smoke"]
    bad = (row for row in rows if not row["ok"] and WRONG not in row["failed"])
    return ";".join(row["kernel"].removesuffix("/mma") for row in bad)


def sanitized(name: str, tool: str, limit: float) -> dict[str, Any]:
    """A kernel on small images under one of compute-sanitizer's tools, which says what it found when the process ends."""
    log = _log(f"{tool} {name}")
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--log-file", str(log.with_suffix(".log"))]
    worker = Worker([*command, sys.executable, __file__, "one", name, "--small"], log)
    end = time.monotonic() + limit
    try:
        worker.answer(limit, f"{name} under {tool}")
        code = worker.process.wait(max(0.1, end - time.monotonic()))
        if code:
            found = log.with_suffix(".log").read_text(errors="replace")
            raise JobError(f"{name} under {tool}: status {code}\n{found[:20000]}")
    except (JobError, subprocess.TimeoutExpired) as e:
        jobs.fault(f"{name} under {tool}", str(e))
        return {"kernel": f"{name} {tool}", "ok": False, "failed": str(e).splitlines()[0][:300]}
    finally:
        worker.kill()
    return {"kernel": f"{name} {tool}", "ok": True}


def sanitizer(limit: float) -> int:
    """Every kernel and tool side by side: they are slow, and need no GPU to themselves."""
    if not shutil.which("compute-sanitizer"):
        print("compute-sanitizer is not installed: not run")
        return 0
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # an access beside a tensor is one beside an allocation
    bad, left_out = 0, set(excluded().split(";"))
    pairs = [(name, t) for t in TOOLS for name in KERNELS if not {name, name.removesuffix("/mma")} & left_out]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 2)) as pool:
        for made in as_completed([pool.submit(sanitized, *pair, limit) for pair in pairs]):
            row = made.result()
            bad += not row["ok"]
            said = f"{row['kernel']:32} {'clean' if row['ok'] else 'FAILED ' + row['failed']}"
            jobs.append(jobs.WORK / "sanitizer.txt", said + "\n")
            print(said, flush=True)
    return int(bad > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", nargs="*", metavar="one NAME")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--excluded", action="store_true")
    parser.add_argument("--sanitizer", action="store_true")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="for each kernel; all run at once")
    options = parser.parse_args()
    if options.one:
        answers = jobs.speak()
        try:
            one(options.one[1], SMALL if options.small else FRAMES)
            found: dict[str, Any] = {"ok": True}
        except BaseException as e:
            traceback.print_exc()
            found = {"failed": f"{type(e).__name__}: {e}"[:2000]}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
        sys.stderr.flush()
        if not options.small:  # a sanitizer reports when the process ends as processes do
            os._exit(0)
    elif options.excluded:
        print(excluded())
    else:
        sys.exit(sanitizer(options.seconds) if options.sanitizer else smoke(options.seconds))


if __name__ == "__main__":
    main()
