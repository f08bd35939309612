# SPDX-License-Identifier: Apache-2.0
"""Measuring fastsr against its peers: interleaved, in one run, every output compared before it is timed.

A shared or throttled machine changes its speed within seconds, so the engines take turns, the machine's FMA rate is
probed before and after, and the median and the minimum of each engine's times are reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.benchmark import engines as _engines
from fastsr.benchmark.engines import ENGINES
from fastsr.errors import DeviceError, FastsrError, InputError, OutputError
from fastsr.plan import Plan
from fastsr.upscaler import find

__all__ = ["AGREE", "ENGINES", "compare", "photo", "run"]

AGREE = 1e-4
"""a peer computes the same thing if almost all its pixels are that near: anchors on near-ties may differ"""
STRAY = (0.001, 0.05, 300)
"""share of pixels that may be farther; of small images 5 %, up to 300 pixels: two or three patches on a near-tie"""
AGREE_HALF = 45.0
"""in bf16: PSNR in dB, of a range of 1"""
REST = 0.05  # seconds between two timings: a burst at full clock, not a throttled average


def photo(h: int, w: int, channels: int = 1, seed: int = 0) -> np.ndarray:  # [C, h, w] f32 in [0, 1]
    """A seeded image with the 1/f spectrum and the edges of photographs, so that anchors are as varied as theirs.

    >>> photo(360, 640).shape
    (1, 360, 640)
    """
    random = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    planes = []
    for _ in range(channels + 1):
        spectrum = random.standard_normal(frequency.shape) + 1j * random.standard_normal(frequency.shape)
        plane = np.fft.irfft2(spectrum / frequency**1.3, (h, w))
        planes.append((plane - plane.mean()) / max(float(plane.std()), 1e-6))
    edges = np.sign(planes[-1])  # regions with sharp outlines, the same in every channel
    x = np.stack([0.5 + 0.14 * plane + 0.12 * edges for plane in planes[:channels]])
    out: np.ndarray = np.clip(x, 0, 1).astype(np.float32)
    return out


def compare(out: np.ndarray, expected: np.ndarray, engine: str, precision: str = "fp32") -> None:
    """Raise FastsrError unless `engine` computed what it is to be timed for (AGREE, in bf16 AGREE_HALF)."""
    if out.shape != expected.shape:
        raise FastsrError(f"engine '{engine}' gave shape {out.shape}, fastsr {expected.shape}: not timed")
    if precision == "bf16":
        error = float(np.square(out - expected, dtype=np.float64).mean())
        if not error <= 10 ** (-AGREE_HALF / 10):
            raise FastsrError(f"engine '{engine}' is {-10 * np.log10(error):.1f} dB from fastsr's fp32: not timed")
        return
    far = int(out.size - (np.abs(out - expected) <= AGREE).sum())  # NaN is far
    if far > max(STRAY[0] * out.size, min(STRAY[1] * out.size, STRAY[2])):
        agreed = 100 * (1 - far / out.size)
        raise FastsrError(f"engine '{engine}' agrees with fastsr on {agreed:.2f} % of the values only: not timed")


def run(
    model: str | Path,
    size: tuple[int, int] = (640, 360),
    threads: int | None = None,
    precision: str = "fp32",
    engines: Sequence[str] | None = None,
    repeats: int = 50,
    seconds: float = 10.0,
    plot: str | Path | None = None,
) -> dict[str, Any]:
    """Time a model against other engines on an input of `size` (width, height), with `threads` threads.

    engines: names of ENGINES; None takes all that can run here and lists the others under "skipped".
    Each engine runs at least 3 times and at most `repeats`, in turns, until `seconds` are spent; outputs are compared
    first. Returns model, size, threads, precision, results (engine, ms_median, ms_min, mpix_per_s of output), best_peer,
    ratio (best peer's median over ours), peak_gflops (fp32 FMA, before and after: the lower), gflop (work of one run).
    Raises DeviceError for an engine or precision that is not available, FastsrError when an engine's output differs.

    >>> fastsr.benchmark.run("annet_x3", size=(64, 48), engines=["fastsr"])["results"]
    """
    w, h = size
    if w < 1 or h < 1 or repeats < 1 or not seconds >= 0:
        raise InputError(f"size {w}x{h}, repeats {repeats}, seconds {seconds}: all must be positive")
    names = list(dict.fromkeys(engines)) if engines else _engines.available()
    if engines is None:
        names = [name for name in names if precision == "fp32" or name in _engines.HALF]
    for name in names:
        _engines.check(name, precision)
    found = find(model)
    report = measure(
        found.plan,
        found.weights,
        size,
        threads,
        names,
        repeats,
        seconds,
        strict=engines is not None,
        precision=precision,
    )
    report = {"model": found.name, "size": f"{w}x{h}", "precision": precision, **report}
    if plot is not None:
        _plot(report, Path(plot))
    return report


def measure(
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    size: tuple[int, int],
    threads: int | None,
    names: Sequence[str],
    repeats: int,
    seconds: float,
    strict: bool = True,
    precision: str = "fp32",
) -> dict[str, Any]:
    """`run` for a plan; when not `strict`, an engine that cannot be prepared is skipped with its reason."""
    w, h = size
    threads = threads or _core.default_threads()
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    gflop = _core.Session(plan.to_dict(), arrays, threads=threads).flops(h, w) / 1e9
    x = photo(h, w, plan.channels)
    peaks = [_core.peak_gflops(threads, 0.1)]
    with _engines.torch_threads(threads):
        expected = _engines.prepare("fastsr", plan, weights, threads)(x)
        runs, skipped = {}, {}
        for name in names:
            try:
                runs[name] = _ready(name, plan, weights, threads, x, expected, precision)
            except DeviceError as e:
                if strict:
                    raise
                skipped[name] = str(e)
        times = _take_turns(runs, x, repeats, seconds)
    peaks.append(_core.peak_gflops(threads, 0.1))
    pixels = h * w * plan.scale**2 / 1e6
    results = [
        {
            "engine": name,
            "ms_median": 1e3 * statistics.median(found),
            "ms_min": 1e3 * min(found),
            "mpix_per_s": pixels / statistics.median(found),
            "runs": len(found),
            "version": _engines.version(name),
        }
        for name, found in times.items()
    ]
    best, ratio = _verdict(results)
    return {
        "threads": threads,
        "results": results,
        "best_peer": best,
        "ratio": ratio,
        "peak_gflops": min(peaks),
        "peak_gflops_probes": peaks,
        "gflop": gflop,
        "isa": _core.isa(),
        "skipped": skipped,
    }


def _ready(
    name: str,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    threads: int,
    x: np.ndarray,
    expected: np.ndarray,
    precision: str,
) -> Callable[[np.ndarray], np.ndarray]:
    """Prepare, warm up and check an engine."""
    try:
        engine = _engines.prepare(name, plan, weights, threads, precision)
        out = engine(x)
    except FastsrError:
        raise
    except Exception as e:  # torch.compile fails in its own ways where there is no C++ compiler
        raise DeviceError(f"engine '{name}' does not run here: {str(e).strip().splitlines()[0]}") from e
    compare(out, expected, name, precision)
    return engine


def _take_turns(
    runs: Mapping[str, Callable[[np.ndarray], np.ndarray]], x: np.ndarray, repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds of every run. Slow engines stop at their share of the time, but not before 3 runs (or `repeats`).

    One that has used all of the time alone stops after 1 run.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        active = [
            name
            for name, found in times.items()
            if (turn < min(3, repeats) and (not found or sum(found) < seconds or not seconds))
            or sum(found) + REST * len(found) < seconds / len(times)
        ]
        if not active:
            break
        for name in active:
            time.sleep(REST)
            begin = time.perf_counter()
            runs[name](x)
            times[name].append(time.perf_counter() - begin)
    return times


def _verdict(results: Sequence[Mapping[str, Any]]) -> tuple[str | None, float | None]:
    """The best peer and its median over ours; None without a peer or without fastsr."""
    peers = [row for row in results if row["engine"] != "fastsr"]
    if not peers:
        return None, None
    best = min(peers, key=lambda row: row["ms_median"])
    ours = next((row["ms_median"] for row in results if row["engine"] == "fastsr"), None)
    return str(best["engine"]), best["ms_median"] / ours if ours else None


def _plot(report: Mapping[str, Any], path: Path) -> None:
    """A bar a engine, in output megapixels a second."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise DeviceError("--plot needs matplotlib: pip install matplotlib") from None
    rows = list(report["results"])[::-1]
    figure = Figure(figsize=(7, 0.8 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row["engine"] for row in rows], [row["mpix_per_s"] for row in rows])
    axes.bar_label(bars, [f"{row['ms_median']:.0f} ms" for row in rows], padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel("output megapixels per second")
    axes.set_title(f"{report['model']}, {report['size']}, {report['threads']} threads, {report['precision']}")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as e:
        raise OutputError(f"{path}: the plot cannot be written: {e}") from None
