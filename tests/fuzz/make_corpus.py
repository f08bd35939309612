# SPDX-License-Identifier: Apache-2.0
"""Writes the corpora of the fuzzers beside itself: python tests/fuzz/make_corpus.py

Seeds of the model reader are a right file, one with float16, and the wrong ones of tests/broken_models.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fastsr import modelfile
from fastsr.plan import Plan, Step
from fastsr.testing import script

HERE = Path(__file__).parent
MAX_SEED = 4096
"""bytes: a fuzzer gets on best with small files"""


def seed(half: bool = False) -> bytes:
    """A small file with a step of every kind of parameter."""
    random = np.random.default_rng(5)
    steps = (
        Step("resize_bicubic", ("lr",), "b", {}, {"scale": 2}),
        Step("conv2d", ("b",), "m", {"w": "w0"}, {"border": "symmetric", "activation": "relu"}),
        Step("conv2d", ("m", "b"), "out", {"w": "w1"}, {"border": "symmetric", "slope": 0.5, "sum_inside": False}),
    )
    dtype = np.float16 if half else np.float32
    tensors = {"w0": random.random((2, 1, 3, 3)).astype(dtype), "w1": random.random((1, 2, 3, 3)).astype(dtype)}
    meta = dict.fromkeys(("name", "arch", "licence"), "x") | dict.fromkeys(("config", "recipe", "psnr", "golden"), "{}")
    meta |= {"fastsr": "1", "scale": "2", "domain": "y", "plan": Plan("y", 2, steps).to_json()}
    return modelfile.serialized(tensors, meta)


def main() -> None:
    broken = script(HERE.parent / "broken_models.py")
    folder = HERE / "corpus/modelfile"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    seeds = {"right": seed(), "right half": seed(half=True)} | {
        name: content for name, (content, _) in broken.KINDS.items()
    }
    work = folder / "work"
    for name, (make, _) in broken.WRONG.items():
        work.write_bytes(seeds["right"])
        try:
            path = make(work)
            if path.is_file():
                seeds[name] = path.read_bytes()
        finally:
            work.rmdir() if work.is_dir() else work.unlink()
    for name, content in seeds.items():
        if len(content) <= MAX_SEED:
            (folder / re.sub(r"\W+", "_", name)).write_bytes(content)


if __name__ == "__main__":
    main()
