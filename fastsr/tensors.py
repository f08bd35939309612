# SPDX-License-Identifier: Apache-2.0
"""torch tensors through a GPU executor: colour, alpha and self-ensemble on the device, no way through the host.

What fastsr.image and fastsr.color do for numpy, for whole batches. Values are checked on the device; their verdict is
read once, with that of the output, after everything is queued.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fastsr import color, image
from fastsr.errors import LimitError, ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class OnDevice(Protocol):
    """What a prepared plan offers beside `run`."""

    @property
    def device(self) -> torch.device: ...

    def run_tensor(self, x: Tensor) -> Tensor: ...

    def bicubic(self, x: Tensor) -> Tensor: ...


def upscale(
    img: Tensor,  # [C, H, W] or [N, C, H, W] float in [0, 1], on any device
    prepared: OnDevice,
    domain: str,
    scale: int,
    self_ensemble: bool,
    most: int,  # output pixels of an image
) -> Tensor:  # as img, `scale` times as large, clipped to [0, 1]
    """Enlarge a tensor on the device of `prepared`; the same dtype, device and number of dimensions comes back.

    Raises InputError and LimitError as `Upscaler.upscale` does, ModelError when the network gives numbers not finite.
    """
    import torch

    image.check_tensor(img)
    h, w = img.shape[-2:]
    if h * w * scale**2 > most:
        raise LimitError(
            f"{w}x{h} pixels times {scale} on each side is above the limit of {most} output pixels: cut it"
        )
    batch = (img if img.ndim == 4 else img[None]).detach().to(prepared.device, torch.float32)
    n, channels = batch.shape[:2]
    if not n:
        return img.new_empty((n, channels, h * scale, w * scale))
    with torch.no_grad():
        good = ((batch >= -image.SLACK) & (batch <= 1 + image.SLACK)).all()  # false of NaN
        planes, alpha = (batch[:, :-1], batch[:, -1:]) if channels in (2, 4) else (batch, None)
        gray = planes.shape[1] == 1
        chroma = None
        if domain == "rgb":
            x = planes.expand(-1, 3, -1, -1) if gray else planes
        elif gray:
            x = planes
        else:
            ycbcr = affine(planes, color.TO_YCBCR, color.OFFSET)
            x, chroma = ycbcr[:, :1], ycbcr[:, 1:]
        out = ensemble(x, prepared.run_tensor) if self_ensemble else prepared.run_tensor(x)
        finite = out.isfinite().all()
        if chroma is not None:
            both = torch.cat([out, prepared.bicubic(chroma)], 1)
            out = affine(both, color.TO_RGB, -color.TO_RGB @ color.OFFSET)
        elif gray and out.shape[1] == 3:
            out = out.mean(1, keepdim=True)
        if alpha is not None:
            out = torch.cat([out, prepared.bicubic(alpha)], 1)
        out = out.clamp(0, 1)
        verdict = torch.stack([good, finite]).tolist()
        if not verdict[0]:
            image.check_values(batch.cpu().numpy())
        if not verdict[1]:
            raise ModelError("the model gave values that are not finite for this image")
        return (out if img.ndim == 4 else out[0]).to(img)


def ensemble(x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean over the 8 flips and turns (paper 002), summed in float64."""
    import torch

    total: Tensor | None = None
    for turn in range(8):
        turned = torch.rot90(x.flip(-1) if turn >= 4 else x, turn % 4, (-2, -1))
        y = torch.rot90(run(turned), -(turn % 4), (-2, -1)).double()
        y = y.flip(-1) if turn >= 4 else y
        total = y if total is None else total + y
    assert total is not None
    return (total / 8).float()


def affine(
    x: Tensor,  # [N, 3, H, W]
    matrix: np.ndarray,  # [3, 3]
    offset: np.ndarray,  # [3]
) -> Tensor:  # [N, 3, H, W]
    """matrix x + offset per pixel, in fp32 whatever torch was told about matrix products."""
    import torch

    rows = [
        sum((float(m) * x[:, j] for j, m in enumerate(row)), start=torch.full_like(x[:, 0], float(offset[i])))
        for i, row in enumerate(matrix)
    ]
    return torch.stack(rows, 1)
