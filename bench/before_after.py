# SPDX-License-Identifier: Apache-2.0
"""docs/before_after.webp: a photo made small by MATLAB's bicubic, enlarged by bicubic and by a model, side by side.

python bench/before_after.py [PHOTO] [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import fastsr
from fastsr import _core

ROOT = Path(__file__).resolve().parents[1]
SIDE = 480  # of each half, about: whole pixels only, so that a browser shows them as they are


def main(photo: str = str(ROOT / "examples" / "circuits.webp"), model: str = "annet_x3") -> None:
    upscaler = fastsr.load(model)
    s = upscaler.info()["scale"]
    image = Image.open(photo).convert("RGB")
    rgb = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    h, w = (n // s for n in rgb.shape[1:])
    lr = np.clip(_core.resize_bicubic(np.ascontiguousarray(rgb[:, : h * s, : w * s]), h, w), 0, 1)
    bicubic = np.clip(_core.resize_bicubic(lr, h * s, w * s), 0, 1).transpose(1, 2, 0)
    ours = np.clip(upscaler.upscale(np.ascontiguousarray(lr.transpose(1, 2, 0))), 0, 1)
    zoom = max(1, round(SIDE / (h * s)))
    halves = []
    for picture, label in ((bicubic, "bicubic"), (ours, model)):
        half = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
        half = half.resize((half.width * zoom, half.height * zoom), Image.Resampling.NEAREST)
        ImageDraw.Draw(half).text((8, 6), label, fill="white", stroke_fill="black", stroke_width=2)
        halves.append(half)
    sheet = Image.new("RGB", (halves[0].width * 2 + 8, halves[0].height), "white")
    sheet.paste(halves[0], (0, 0))
    sheet.paste(halves[1], (halves[0].width + 8, 0))
    target = ROOT / "docs" / "before_after.webp"
    sheet.save(target, quality=92)
    print(f"wrote {target} ({sheet.width}x{sheet.height})")


if __name__ == "__main__":
    main(*sys.argv[1:])
