# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory above a bare interpreter for one upscaling, measured in processes of their own.

python bench/peak_memory.py [MODEL] [WxH]        target: annet_x3 at 640x360 takes at most 300 MB
python bench/peak_memory.py all 3000x2000        a table of the shipped models
"""

from __future__ import annotations

import subprocess
import sys

PEAK = """
def peak_kib():  # of this program: ru_maxrss would count the parent's pages too
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource, sys
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return rss // 1024 if sys.platform == "darwin" else rss
"""
UPSCALE = """
import sys
import fastsr
import numpy as np
x = np.random.default_rng(0).integers(0, 256, ({h}, {w}, 3), dtype=np.uint8)
out = fastsr.load({model!r}, threads={threads}).upscale(x)
assert out.shape[0] % {h} == 0 and out.shape[0] > {h}, out.shape
"""


def _peak(code: str) -> float:
    """Of a process that runs this, in MB."""
    out = subprocess.check_output([sys.executable, "-c", PEAK + code + "\nprint(peak_kib())"], text=True)
    return int(out.split()[-1]) * 1024 / 1e6


def measure(model: str = "annet_x3", width: int = 640, height: int = 360, threads: int = 2) -> dict[str, float]:
    """Peaks in MB: of a bare interpreter, of the imports, of the upscaling of a colour frame, and what that is above."""
    bare = _peak("")
    imported = _peak("import fastsr, numpy")
    upscaled = upscaling(model, width, height, threads)
    return {
        "interpreter_mb": bare,
        "imports_mb": imported,
        "peak_mb": upscaled,
        "above_interpreter_mb": upscaled - bare,
    }


def upscaling(model: str, width: int, height: int, threads: int = 2) -> float:
    return _peak(UPSCALE.format(model=model, w=width, h=height, threads=threads))


def table(width: int, height: int) -> None:
    """The peak of every shipped model, and what it is over the bytes of the input and the result together."""
    import fastsr

    print(f"| {width}x{height} RGB, 8 bits | peak, MB | of input and result |\n|---|---:|---:|")
    for model in fastsr.models():
        peak = upscaling(model.name, width, height)
        images = 3 * width * height * (1 + model.scale**2) / 1e6
        print(f"| `{model.name}` | {peak:.0f} | {peak / images:.1f} x |", flush=True)


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "annet_x3"
    size = sys.argv[2] if len(sys.argv) > 2 else "640x360"
    w, h = (int(n) for n in size.split("x"))
    if name == "all":
        table(w, h)
    else:
        for key, value in measure(name, w, h).items():
            print(f"{key:22} {value:8.1f}")
