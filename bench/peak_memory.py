# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory above a bare interpreter for one upscaling, measured in processes of their own.

python bench/peak_memory.py [MODEL] [WxH]        target: annet_x3 at 640x360 takes at most 300 MB
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


def _peak(code: str) -> int:
    out = subprocess.check_output([sys.executable, "-c", PEAK + code + "\nprint(peak_kib())"], text=True)
    return int(out.split()[-1])


def measure(model: str = "annet_x3", width: int = 640, height: int = 360, threads: int = 2) -> dict[str, float]:
    """Peaks in MB: of a bare interpreter, of the imports, of the upscaling of a colour frame, and what that is above."""
    bare = _peak("")
    imported = _peak("import fastsr, numpy")
    upscaled = _peak(UPSCALE.format(model=model, w=width, h=height, threads=threads))
    mb = 1024 / 1e6
    return {
        "interpreter_mb": bare * mb,
        "imports_mb": imported * mb,
        "peak_mb": upscaled * mb,
        "above_interpreter_mb": (upscaled - bare) * mb,
    }


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "annet_x3"
    size = sys.argv[2] if len(sys.argv) > 2 else "640x360"
    for key, value in measure(name, *(int(n) for n in size.split("x"))).items():
        print(f"{key:22} {value:8.1f}")
