# SPDX-License-Identifier: Apache-2.0
"""One case by one engine on a GPU, in a process of its own that bench/bench_gpu.py tells when to do what.

    python bench/gpu_worker.py CASE ENGINE PRECISION

It loads, compiles, compares with float32 and answers "ready"; many do that side by side. The word "first" makes it choose
among candidates and time the fastest, "again" time that once more: then nobody else uses the GPU. What depends on times,
such as cuDNN's choice of algorithms for the peers, is done then as well, and not before.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import jobs

OURS = ("triton", "cuda", "gpu")
PEERS = ("torch", "torch.compile", "torch.compile max", "torch.compile best")
"""best: the fastest torch of anchored_regression that we know, compiled; max: mode max-autotune-no-cudagraphs"""
CASES: dict[str, tuple[Callable[[Any], Any], tuple[int, int]]] = {
    "anchored_regression x3": (lambda c: c.anchored_regression(3), (640, 360)),
    "annet_x3": (lambda c: c.model("annet_x3"), (640, 360)),
    "pconv_block 128-64": (lambda c: c.pconv_block(), (1920, 1080)),
    "srcnn_915_x3": (lambda c: c.model("srcnn_915_x3"), (640, 360)),
    "cista 128-256": (lambda c: c.cista(), (960, 540)),
    "cista 64-1024": (lambda c: c.cista(64, 1024), (320, 180)),
    "btsrn_x3": (lambda c: c.model("btsrn_x3"), (640, 360)),
    "upsample_residual x3": (lambda c: c.upsample_residual(), (640, 360)),
    "crnet_a x2": (lambda c: _network(c, "crnet_a"), (128, 128)),
    "crnet_b x2": (lambda c: _network(c, "crnet_b"), (96, 96)),
    "srcnn_955_x3": (lambda c: c.model("srcnn_955_x3"), (640, 360)),
}
"""name -> the case, and width and height of its input; the most important ones first"""
BY_CUDA = ("anchored", "annet", "pconv", "btsrn", "cista", "crnet")
"""beginnings of the names of those in which an op has a CUDA kernel"""
ANCHORED = ("anchored", "annet")
DEVICE = "cuda"
PSNR = {"fp8": 40.0}
"""an engine further from float32 than this, 50 dB in other precisions, is not timed"""
CALLS, ROUNDS, SPAN = 20, 9, 0.5
"""calls between two events, rounds of them, and the seconds that a turn may take where that is less"""

Run = Callable[[Any], Any]


def _network(cases: Any, name: str) -> Any:
    return next(case for case in cases.networks() if case.name.startswith(name))


def engines(case: str) -> list[str]:
    """Those that have something to do in a case."""
    mine = ["triton", *(["cuda"] if case.startswith(BY_CUDA) else []), "gpu", "torch", "torch.compile"]
    return [*mine, "torch.compile max", *(["torch.compile best"] if case.startswith(ANCHORED) else [])]


class Bench:
    """A case by an engine."""

    def __init__(self, case: str, engine: str, precision: str) -> None:
        make, self.size = CASES[case]
        self.name, self.engine, self.precision, self.make = case, engine, precision, make
        self.prepared: Any = None
        self.trials: Any = []
        self.run: Run = _nothing
        self.graph = False
        self.doing: Callable[[str], None] = _nobody

    def prepare(self) -> dict[str, Any]:
        """Everything that may be done beside others."""
        self.doing("importing torch")
        import torch

        from fastsr import _core
        from fastsr.benchmark import cases
        from fastsr.gpu import tuning

        tuning.watch = self.doing
        torch.manual_seed(0)
        _flags(self.precision, settled=False)
        self.doing("making the case")
        case = self.case = self.make(cases)
        w, h = self.size
        self.x = image(case.plan.channels, h, w)
        work = _core.Session(case.plan.to_dict(), _arrays(case), threads=1).flops(h, w)
        self.doing("computing in fp32")
        self.truth = truth(case, self.x)
        self.doing("making the engine ready")
        peer = "fp16" if self.precision == "fp8" else self.precision  # torch has no convolutions of 8 bits
        if self.engine in OURS:
            self._prepare_ours()
        elif self.engine == "torch":
            from fastsr.benchmark import gpu

            self.prepared = gpu.eager(case.plan, case.weights, peer, DEVICE)
            self.prepared.measures = False
            # Libraries are loaded; the algorithms of the real size are chosen in this process's turn.
            self.doing("running a corner")
            self.prepared.run_tensor(self.x[..., :24, :24])
        else:
            self._prepare_compiled(peer)
        traffic = self.prepared.traffic(1, h, w) if self.prepared else None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return {"ready": True, "flops": work, "traffic": traffic}

    def _prepare_ours(self) -> None:
        from fastsr import executors

        w, h = self.size
        how = {"precision": self.precision, "device": DEVICE}
        self.prepared = executors.get(self.engine).prepare(self.case.plan, self.case.weights, **how)  # type: ignore[arg-type]
        self.prepared.measures = False
        if self.engine == "cuda":
            rows = self.prepared.explain(h, w)
            if not any(row["who"].startswith("cuda") for row in rows):  # its time would be another engine's
                raise ValueError("no CUDA kernel runs: " + "; ".join(dict.fromkeys(row["who"] for row in rows)))
        self.trials = self.prepared.trials(1, h, w)
        self.doing("running the whole")
        self._check(self.prepared.run_tensor(self.x))

    def _prepare_compiled(self, precision: str) -> None:
        from fastsr.benchmark import gpu

        best, mode = self.engine.endswith("best"), "max-autotune-no-cudagraphs" if self.engine.endswith("max") else None
        self.doing("compiling")
        self.run = gpu.compiled(self.case.plan, self.case.weights, precision, DEVICE, best_anchored=best, mode=mode)
        self._check(self.run(self.x))

    def first(self) -> dict[str, Any]:
        """Choose, compare what was chosen, time it."""
        import torch

        _flags(self.precision, settled=True)
        found: dict[str, Any] = {}
        if self.prepared:
            if self.engine == "torch":
                self.trials = every_way(self.prepared, self.x)
            found["candidates"] = self.prepared.choose(self.trials, _seconds)
            self.trials = []
            self.run = self.prepared.run_tensor
            for _ in range(2):  # the second one is captured
                self.run(self.x)
            found["who"] = [row["who"] for row in self.prepared.explain(*reversed(self.size))]
            self.graph = bool(self.prepared._graphs)
        else:
            self.run(self.x)
            self._capture()
        found["psnr_to_fp32"] = self._check(self.run(self.x))
        torch.cuda.synchronize()
        found |= {"graph": self.graph, "peak_bytes": torch.cuda.max_memory_allocated()}
        return found | self.again() | {"ms_latency": self._latency()}

    def _capture(self) -> None:
        """The compiled functions as one CUDA graph, as our executors and eager torch are run, where they can be."""
        import torch

        from fastsr.gpu.gpu import _Graph

        if self.engine.endswith("best"):  # it reads numbers back
            return
        run = self.run
        try:
            graph = _Graph(run, self.x, torch.cuda.graph_pool_handle(), torch.cuda.Event())
            graph.replay(self.x)
            torch.cuda.synchronize()
        except RuntimeError:
            traceback.print_exc()
            torch.cuda.synchronize()
            return
        self.run, self.graph = graph.replay, True

    def _check(self, out: Any) -> float | None:
        """PSNR to float32. Raises ValueError where it is too low."""
        import math

        error = float((out - self.truth).square().mean())
        psnr = None if error == 0 else round(-10 * math.log10(error), 2) if math.isfinite(error) else math.nan
        if psnr is not None and not psnr >= PSNR.get(self.precision, 50.0):
            raise ValueError(
                f"the output differs from float32: {psnr} dB, worst {float((out - self.truth).abs().max())}"
            )
        return psnr

    def again(self) -> dict[str, Any]:
        """Milliseconds per call, of many calls between two events: the CPU is ahead, so that its gaps do not count."""
        import torch

        with torch.no_grad():
            once = _timed(lambda: self.run(self.x), 1)
            once = min(once, _timed(lambda: self.run(self.x), 1))
            calls = max(2, min(CALLS, int(SPAN / 3 / once)))
            rounds = max(3, min(ROUNDS, int(SPAN / (calls * once))))
            times = [_timed(lambda: self.run(self.x), calls) for _ in range(rounds)]
        return {"ms": [1e3 * t for t in times]}

    def _latency(self) -> float:
        """Milliseconds of one call on an idle GPU, as the host sees it."""
        import torch

        times = []
        for _ in range(9):
            torch.cuda.synchronize()
            began = time.perf_counter()
            self.run(self.x)
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - began))
        return statistics.median(times)


def _nothing(x: Any) -> Any:
    raise RuntimeError("not prepared")


def _nobody(text: str) -> None:
    """Nobody wants to know what goes on."""


def _arrays(case: Any) -> dict[str, Any]:
    import numpy as np

    return {name: np.ascontiguousarray(value, np.float32) for name, value in case.weights.items()}


def truth(case: Any, x: Any) -> Any:
    """The plan's output in fp32, computed once for all engines: by torch's references and cuDNN's first guess, as measuring
    fp32 convolutions takes cuDNN longer than all that is to be timed."""
    import fcntl
    import hashlib
    import importlib

    import torch

    from fastsr.plan import INPUT, OUTPUT

    digest = hashlib.sha256(f"{case.plan} {tuple(x.shape)} {jobs.peers_hash()}".encode())
    for name, array in sorted(_arrays(case).items()):
        digest.update(name.encode() + array.tobytes())
    file = jobs.WORK / "truth" / f"{digest.hexdigest()[:20]}.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever is killed lets it go
        if file.exists():
            kept = torch.load(file, map_location=x.device)
            if torch.equal(kept["x"], x):
                return kept["out"]
        weights = {name: torch.from_numpy(array).to(x.device) for name, array in _arrays(case).items()}
        values = {INPUT: x}
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.no_grad(), flags:
            for i, step in enumerate(case.plan.steps):
                op = importlib.import_module(f"fastsr.ops.{step.op}")
                roles = {role: weights[name] for role, name in step.weights.items()}
                values[step.out] = op.reference(*(values[name] for name in step.inputs), **roles, **step.params)
                later = {name for after in case.plan.steps[i + 1 :] for name in after.inputs}
                values = {name: value for name, value in values.items() if name in later or name == OUTPUT}
        temporary = file.with_suffix(f".{os.getpid()}")
        torch.save({"x": x, "out": values[OUTPUT]}, temporary)
        os.replace(temporary, file)
    return values[OUTPUT]


def every_way(prepared: Any, x: Any) -> list[list[Any]]:
    """A peer's implementations of every step, not compared one by one as ours are: its output is, as a whole."""
    import torch

    from fastsr.gpu import tuning
    from fastsr.plan import INPUT

    values, found, seen = {INPUT: x}, [], set()
    with torch.no_grad():
        for stage in prepared.stages:
            inputs = [values[name] for name in stage.inputs]
            shape = tuple(inputs[0].shape)
            if len(stage.implementations) > 1 and tuning.row_of(stage, shape) not in seen:
                seen.add(tuning.row_of(stage, shape))
                found.append([_trial(stage, shape, inputs, implementation) for implementation in stage.implementations])
            values[stage.out] = stage.plain(inputs, prepared.dtype)
            for name in stage.frees:
                del values[name]
    return found


def _trial(stage: Any, shape: tuple[int, ...], inputs: list[Any], implementation: Any) -> Any:
    from fastsr.gpu import tuning

    row = {"stage": stage.key, "implementation": implementation.name, "config": None, "seconds": None}
    return tuning.Trial(
        stage,
        shape,
        tuning.Candidate(implementation.name),
        row,
        lambda: implementation.launch(implementation.packed, inputs, None),
    )


def _flags(precision: str, settled: bool) -> None:
    """torch at its best. Before its turn a peer's convolutions are asked for with another tf32 flag (no matter to halves):
    cuDNN remembers an algorithm per flag, and what it measured beside others must not be what is timed."""
    import torch

    tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = tf32 == settled
    torch.backends.cuda.matmul.allow_tf32 = tf32


def image(channels: int, h: int, w: int) -> Any:  # [1, C, h, w] on the GPU, smooth as images are
    import torch

    x = torch.rand(1, channels, h, w, device=DEVICE)
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (2, 2, 2, 2), "replicate"), 5, 1)


def _timed(run: Callable[[], Any], calls: int) -> float:
    """Seconds per call on the GPU."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return 1e-3 * float(begin.elapsed_time(end)) / calls


def _seconds(run: Callable[[], Any]) -> float:
    """A candidate's time: calls that follow each other, of which enough are under way to hide their launches."""
    once = min(_timed(run, 1) for _ in range(2))  # the first one may measure algorithms
    calls = max(2, min(20, int(0.01 / once)))
    return statistics.median(_timed(run, calls) for _ in range(3))


def probe() -> dict[str, Any]:
    """TFLOP/s of matrix products of 8192 in each type, TB/s of copying 1 GiB (read and written), and who does it."""
    import torch

    found: dict[str, Any] = {
        "driver": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "cudnn": torch.backends.cudnn.version(),
        "cuda": torch.version.cuda,
        "l2_bytes": getattr(torch.cuda.get_device_properties(0), "L2_cache_size", None),
    }
    for name in ("triton", "cupy"):
        try:
            found[name] = __import__(name).__version__
        except Exception as e:
            found[name] = f"{type(e).__name__}: {e}"
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("tf32", torch.float32)):
        torch.backends.cuda.matmul.allow_tf32 = True
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        _timed(lambda a=a, b=b: a @ b, 3)  # type: ignore[misc]
        found[name] = 2 * 8192**3 / statistics.median(_timed(lambda a=a, b=b: a @ b, 5) for _ in range(5)) / 1e12  # type: ignore[misc]
    big = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    found["tbps"] = 2 * (1 << 30) / statistics.median(_timed(lambda: other.copy_(big), 5) for _ in range(5)) / 1e12
    found["fp8"], found["fp32"] = found["fp16"], found["tf32"]
    return found


def main() -> None:
    import json

    answers = jobs.speak()

    def say(**found: Any) -> None:
        answers.write(json.dumps(found) + "\n")

    try:
        if sys.argv[1] == "probe":
            say(**probe())
        else:
            bench = Bench(*sys.argv[1:4])
            bench.doing = lambda text: say(doing=text)
            say(**bench.prepare())
            for line in sys.stdin:
                say(**{"first": bench.first, "again": bench.again}[line.strip()]())
    except BaseException as e:
        traceback.print_exc()
        sys.stderr.flush()
        say(failed=f"{type(e).__name__}: {e}"[:2000])
    answers.flush()
    os._exit(0)  # without the minutes that a broken context can take to go


if __name__ == "__main__":
    main()
