# SPDX-License-Identifier: Apache-2.0
"""The README's tables, written by no hand.

python bench/report.py --measure    times ops and models at 640x360, engines in turns -> bench/results/<machine>.json
python bench/report.py --quality DIR    PSNR of the shipped models on each folder of DIR -> their metadata
python bench/report.py              that file and the model files -> the tables in README.md, docs/speed.png
python bench/report.py --check      fails if README.md is not what the line above would write
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import fastsr.benchmark
from fastsr import _core, catalog, doctor
from fastsr.evaluate.record import FIRST as SETS
from fastsr.evaluate.record import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
NEAR_PEAK = 0.9  # a probe below this share of the best one means a throttled or shared machine


def machine() -> str:
    """A file name for this machine: CPU, ISA and cores."""
    words = re.sub(r"\(.*?\)|CPU|@.*", "", str(doctor.examine()["cpu"])).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or platform.machine()
    return f"{slug}-{_core.isa()}-{_core.default_threads()}"


def measure_quality(data: Path, only: str) -> None:
    """Evaluate shipped models on every folder of `data`, and write the means into the model files."""
    for info in fastsr.models():
        if not any(part in info.name for part in only.split(",")):
            continue
        click.echo(f"{info.name:20} {record(catalog.locate(info.name), data)}")


def rows_of(name: str, report: Mapping[str, Any], size: str, dtype: str = "float32") -> list[dict[str, Any]]:
    """One row per (what, who, shape, dtype, threads)."""
    shared = {"what": name, "size": size, "dtype": dtype, "threads": report["threads"], "gflop": report["gflop"]}
    probes = {"peak_gflops": report["peak_gflops_probes"]}
    return [{**shared, "who": row.pop("engine"), **row, **probes} for row in map(dict, report["results"])]


def measure(path: Path, size: tuple[int, int], seconds: float, engines: Sequence[str] | None, only: str) -> None:
    """Time every op and model whose name contains `only`; rows of others in the file are kept."""
    from fastsr import benchmark
    from fastsr.benchmark import cases
    from fastsr.benchmark.engines import HALF, available

    old = json.loads(path.read_text())["rows"] if path.exists() else []
    new: list[dict[str, Any]] = []
    # Other families' shipped models are networks() with other numbers.
    models = [case for case in cases.models() if case.name.startswith("annet")]
    for case in [*cases.ops((2, 3, 4)), *cases.networks(), *models]:
        if not any(part in case.name for part in only.split(",")):
            continue
        w, h = case.size(*size)
        names = engines or available()
        report = benchmark.measure(case.plan, case.weights, (w, h), None, names, 50, seconds, strict=False)
        new += rows_of(case.name, report, f"{w}x{h}")
        if case.frame and "srcnn" not in case.name and _core.isa() in ("avx512bf16", "amx"):
            half = [name for name in names if name in HALF]
            args = (case.plan, case.weights, (w, h), None, half, 50, seconds)
            halves = benchmark.measure(*args, strict=False, precision="bf16")
            new += rows_of(f"{case.name} bf16", halves, f"{w}x{h}", "bfloat16")
            click.echo(f"{case.name + ' bf16':28} {halves['ratio']:.2f}x {halves['best_peer']}")
        ratio = f"{report['ratio']:.1f}x {report['best_peer']}" if report["ratio"] else ""
        click.echo(f"{case.name:28} {report['results'][0]['ms_median']:8.1f} ms  {ratio}")
    keys = {(row["what"], row["size"]) for row in new}
    rows = [row for row in old if (row["what"], row["size"]) not in keys] + new
    path.parent.mkdir(parents=True, exist_ok=True)
    conditions = doctor.examine() | {"date": datetime.date.today().isoformat()}
    path.write_text(json.dumps({"machine": conditions, "rows": rows}, indent=1) + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others numbers."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


def quality() -> str:
    """Mean PSNR of the shipped models, from the files' own metadata."""
    models = fastsr.models()
    sets = [name for name in SETS if any(name in m.psnr for m in models)]
    if not sets:
        return "Not measured yet."
    cells = [
        [f"`{m.name}`", *(f"{float(m.psnr[s]):.2f}" if s in m.psnr else "" for s in sets), f"{m.bytes / 1e6:.1f} MB"]
        for m in models
    ]
    return table(["model", *sets, "file"], cells)


def speed(path: Path) -> str:
    """Medians per engine, the ratio to the best peer and the share of the FMA peak, with the conditions below."""
    if not path.exists():
        return "Not measured yet."
    data = json.loads(path.read_text())
    whats: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in data["rows"]:
        whats.setdefault((row["what"], row["size"]), {})[row["who"]] = row
    engines = [name for name in fastsr.benchmark.ENGINES if any(name in found for found in whats.values())]
    peak = max(max(row["peak_gflops"]) for row in data["rows"])
    cells = []
    for (what, size), found in whats.items():
        ours, peers = found.get("fastsr"), [row["ms_median"] for who, row in found.items() if who != "fastsr"]
        ratio = f"**{min(peers) / ours['ms_median']:.1f}×**" if ours and peers else ""
        # Share of the best probe: what the machine can do, not what it did while throttled.
        share = f"{100 * ours['gflop'] / ours['ms_median'] * 1e3 / peak:.0f} %" if ours else ""
        slow = "*" if any(min(row["peak_gflops"]) < NEAR_PEAK * peak for row in found.values()) else ""
        times = [f"{found[e]['ms_median']:.1f}" if e in found else "" for e in engines]
        cells.append([f"{what}{slow}", size.replace("x", "×"), *times, ratio, share])
    body = table(["median ms", "input", *engines, "best peer / ours", "of FMA peak"], cells)
    m = data["machine"]
    threads = data["rows"][0]["threads"]
    note = (
        f"{m['cpu']}, {m['isa']}, {threads} threads, fp32 unless bf16, FMA peak {peak:.0f} GFLOP/s; torch {m['torch']}, "
        f"fastsr {m['fastsr']}, {m['date']}. Share of the peak counts the plan's own FLOPs (direct convolution, "
        "all atoms scored)."
    )
    if any(cell[0].endswith("*") for cell in cells):
        note += (
            f" \\* the FMA probe fell below {NEAR_PEAK:.0%} of its best during this row: a shared or throttled core."
        )
    return f"{body}\n\n{note}"


def plot(path: Path, target: Path) -> None:
    """Time of every engine over ours, one line a network or op, into `target`."""
    from matplotlib.figure import Figure

    data = json.loads(path.read_text())
    whats: dict[str, dict[str, float]] = {}
    for row in data["rows"]:
        whats.setdefault(f"{row['what']}  {row['size']}", {})[row["who"]] = row["ms_median"]
    names = [name for name, found in whats.items() if "fastsr" in found and len(found) > 1][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="black", linewidth=1)
    for engine in fastsr.benchmark.ENGINES:
        points = [(whats[n][engine] / whats[n]["fastsr"], y) for y, n in enumerate(names) if engine in whats[n]]
        if engine != "fastsr" and points:
            axes.scatter(*zip(*points, strict=True), label=engine, s=30)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{t}x" for t in ticks])
    axes.grid(axis="x", which="major", alpha=0.3)
    m = data["machine"]
    axes.set_xlabel(
        f"time of a peer / time of fastsr ({m['cpu']}, {m['isa']}, {data['rows'][0]['threads']} threads, fp32 unless bf16)"
    )
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False)
    axes.set_ylim(-0.7, len(names) + 1.2)
    figure.savefig(target, dpi=110)


def fill(text: str, mark: str, body: str) -> str:
    """`text` with what stands between the marks replaced."""
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    if begin not in text or end not in text:
        raise click.ClickException(f"README.md has no {begin} ... {end}")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{body}\n{end}{rest.partition(end)[2]}"


@click.command()
@click.option("--measure", "do_measure", is_flag=True, help="Time everything first (minutes; leave the machine alone).")
@click.option("--quality", "data", type=click.Path(exists=True, path_type=Path), help="Measure PSNR on DIR/Set5 ...")
@click.option("--check", is_flag=True, help="Fail if README.md is not up to date; write nothing.")
@click.option("--size", default="640x360", show_default=True, metavar="WxH")
@click.option("--seconds", default=10.0, show_default=True, help="Per op or model.")
@click.option("--engines", help="Comma-separated; default: all that are installed.")
@click.option("--only", default="", help="Ops and models whose name contains one of these, comma-separated.")
@click.option("--results", type=click.Path(path_type=Path), help="Default: bench/results/<this machine>.json")
@click.option("--readme", type=click.Path(path_type=Path), default=ROOT / "README.md")
def main(
    do_measure: bool,
    data: Path | None,
    check: bool,
    size: str,
    seconds: float,
    engines: str | None,
    only: str,
    results: Path | None,
    readme: Path,
) -> None:
    """Measure, and write the tables of quality and speed into README.md."""
    path = results or RESULTS / f"{machine()}.json"
    if data:
        measure_quality(data, only)
    if do_measure:
        w, h = map(int, size.split("x"))
        measure(path, (w, h), seconds, engines.split(",") if engines else None, only)
    if not path.exists():  # tables of another machine rather than none
        path = next(iter(sorted(RESULTS.glob("*.json"))), path)
    text = readme.read_text()
    new = fill(fill(text, "quality", quality()), "bench", speed(path))
    if check and new != text:
        sys.exit(f"{readme} is not up to date: run python bench/report.py")
    if new != text:
        readme.write_text(new)
    if path.exists() and not check and readme == ROOT / "README.md":
        plot(path, ROOT / "docs" / "speed.png")


if __name__ == "__main__":
    main()
