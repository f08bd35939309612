# SPDX-License-Identifier: Apache-2.0
"""Each op in the fastest torch we found: the peer to beat. docs/performance.md says what else was tried.

anchored_regression   features by one convolution of the LR image; scores in chunks that stay in L2, arg-max in two levels (the vectorised amax of 32 groups, then
                      the 32 atoms of the best group: 1.8x over argmax); patches sorted by anchor, one GEMM per atom
                      (10x over gathered bmm); overlap by 9 shifted adds (4x over fold, 10x compiled)
conv2d                bands of rows that stay in cache; few input channels: columns and a GEMM; few output channels: a
                      GEMM to one map per tap and shifted adds (oneDNN pads 1 channel to 16); else oneDNN
other networks        channels_last from end to end, oneDNN's choice of algorithm; bands of rows lose for 128 and more maps
resize_bicubic        torch's antialiasing bicubic on the padded image, as natural.py has it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsr.benchmark import natural
from fastsr.benchmark.natural import Stage, Values, Wrap
from fastsr.ops.conv2d import BEFORE, pad
from fastsr.plan import INPUT, Step

CHUNK = 2048
"""patches scored at once: 8 MB of scores; 512 to 4096 are within 15 %, 8192 is 4x slower (page faults)"""
GROUPS = 32
CHAINED = ("resize_bicubic", "conv2d", "anchored_regression")
BAND = 16384
"""pixels of the convolution chain at once: 64 maps of 1920 x 8 are 4 MB"""


def group_count(atoms: int) -> int:
    """The largest divisor of the number of atoms up to GROUPS."""
    return max(g for g in range(1, GROUPS + 1) if atoms % g == 0)


def anchored_stage(step: Step, weights: Mapping[str, Tensor], wrap: Wrap, compiled: bool) -> Stage:
    """Two-level arg-max, sorted grouped GEMMs, shifted adds."""
    filters, atoms, projections = (weights[step.weights[k]] for k in ("filters", "atoms", "projections"))
    s = int(step.params["scale"])
    n1, f = filters.shape[0], filters.shape[-1]
    m, count, groups = 3 * s, atoms.shape[0], group_count(atoms.shape[0])
    bank = filters[:, None].contiguous()
    matrices = projections.transpose(1, 2).contiguous().unbind()  # A of [n1, m * m]
    columns_of_atoms = atoms.T.contiguous()

    def features(x: Tensor) -> Tensor:  # [1, n1, rows, columns]
        return F.conv2d(pad(x, 1 + f // 2, "symmetric"), bank)

    def anchors_by_column(part: Tensor) -> Tensor:  # [n1, p] -> [p]; the faster form when compiled
        z = (atoms @ part).abs().view(groups, count // groups, -1)
        group = z.amax(1).argmax(0)
        inside = z.gather(0, group[None, None].expand(1, count // groups, -1))[0].argmax(0)
        return group * (count // groups) + inside

    def anchors_by_row(part: Tensor) -> Tensor:  # [p, n1] -> [p]; the faster form in eager mode
        z = (part @ columns_of_atoms).abs_().view(-1, groups, count // groups)
        group = z.amax(2).argmax(1)
        inside = z.gather(1, group[:, None, None].expand(-1, 1, count // groups))[:, 0].argmax(1)
        return group * (count // groups) + inside

    def combine(base: Tensor, detail: Tensor, rows: int, columns: int) -> Tensor:
        d = detail.view(rows, columns, 3, s, 3, s)
        h, w = rows - 2, columns - 2
        total = d[2 : 2 + h, 2 : 2 + w, 0, :, 0]
        for i in range(3):
            for j in range(3):
                if i or j:
                    total = total + d[2 - i : 2 - i + h, 2 - j : 2 - j + w, i, :, j]
        return base + total.permute(0, 2, 1, 3).reshape(base.shape) / 9

    features, combine = wrap(features), wrap(combine)
    score = wrap(anchors_by_column if compiled else anchors_by_row)

    def stage(values: Values) -> None:
        x, base = (values[name] for name in step.inputs)
        maps = features(x)
        rows, columns = maps.shape[-2:]
        by_column = maps[0].reshape(n1, rows * columns)
        by_row = by_column.T.contiguous()
        parts = torch.split(by_column, CHUNK, 1) if compiled else torch.split(by_row, CHUNK)
        anchor = torch.cat([score(part) for part in parts])
        order = torch.argsort(anchor)
        sizes = torch.bincount(anchor, minlength=count).tolist()
        sorted_rows = by_row[order]
        grouped = sorted_rows.new_empty(rows * columns, m * m)
        begin = 0
        for a, size in enumerate(sizes):
            if size:
                torch.mm(sorted_rows[begin : begin + size], matrices[a], out=grouped[begin : begin + size])
                begin += size
        detail = torch.empty_like(grouped)
        detail[order] = grouped
        values[step.out] = combine(base, detail, rows, columns)

    return stage


class Conv:
    """One layer of a convolution chain on a band of rows."""

    def __init__(self, step: Step, weights: Mapping[str, Tensor], wrap: Wrap) -> None:
        self.w = weights[step.weights["w"]]
        self.b = weights[step.weights["b"]] if "b" in step.weights else self.w.new_zeros(self.w.shape[0])
        self.co, self.ci, self.k = self.w.shape[:3]
        self.activation = str(step.params.get("activation", "none"))
        self.slope = float(step.params.get("slope", 0.0))
        # 1x1 commutes with a border that copies pixels and with zeros.
        self.by_taps = self.co * self.k**2 <= 64 < self.ci * self.k**2
        self.by_columns = not self.by_taps and self.ci * self.k**2 <= 256
        self.flat = self.w.reshape(self.co, -1).contiguous()
        self.taps = self.w.permute(2, 3, 0, 1).reshape(-1, self.ci).contiguous()  # [k * k * co, ci]
        self.columns, self.add_taps = wrap(self._columns), wrap(self._add_taps)

    def _columns(self, p: Tensor) -> Tensor:  # [ci, h + k - 1, w + k - 1] -> [co, h, w]
        k, h, w = self.k, p.shape[-2] - self.k + 1, p.shape[-1] - self.k + 1
        cut = torch.stack([p[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], 1)
        return torch.addmm(self.b[:, None], self.flat, cut.reshape(self.ci * k * k, h * w)).view(self.co, h, w)

    def _add_taps(self, z: Tensor) -> Tensor:  # [k * k, co, h + k - 1, w + k - 1] -> [co, h, w]
        k, h, w = self.k, z.shape[-2] - self.k + 1, z.shape[-1] - self.k + 1
        total = self.b[:, None, None] + z[0, :, :h, :w]
        for t in range(1, k * k):
            total = total + z[t, :, t // k : t // k + h, t % k : t % k + w]
        return total

    def run(
        self,
        x: Tensor,  # [ci, rows of the band, W]
        rows: Tensor,  # indices into the band: with the border, radius rows more on each side
        columns: Tensor,
        zero: tuple[int, int] | None,  # rows of zeros above and below, for border "zero"
    ) -> Tensor:  # [co, rows - k + 1, W]
        """Convolve the band, extended by its border."""
        z = (self.taps @ x.flatten(1)).view(-1, *x.shape[1:]) if self.by_taps else x
        r = self.k // 2
        z = z[:, rows][..., columns] if zero is None else F.pad(z[:, rows], (r, r, *zero))
        if self.by_taps:
            y: Tensor = self.add_taps(z.view(self.k**2, self.co, *z.shape[1:]))
        elif self.by_columns:
            y = self.columns(z)
        else:
            y = F.conv2d(z[None].contiguous(memory_format=torch.channels_last), self.w, self.b)[0].contiguous()
        if self.activation == "relu":
            return y.relu_()
        return F.leaky_relu_(y, self.slope) if self.activation == "leaky_relu" else y


def _band_rows(lo: int, hi: int, n: int, r: int, base: int, border: str) -> tuple[Tensor, tuple[int, int] | None]:
    """Indices of rows lo - r .. hi + r - 1 of an image of n rows, relative to row `base`; zero rows to add outside."""
    if border == "zero":
        inside = torch.arange(max(0, lo - r), min(n, hi + r))
        return inside - base, (max(0, r - lo), max(0, hi + r - n))
    mode = {"replicate": "edge", "symmetric": "symmetric"}[border]
    index = np.pad(np.arange(n), r, mode=mode)[lo : hi + 2 * r]  # type: ignore[call-overload]
    return torch.from_numpy(index) - base, None


def chain_stage(steps: Sequence[Step], weights: Mapping[str, Tensor], wrap: Wrap) -> Stage:
    """Consecutive convolutions, band by band; a residual is a value from before the chain."""
    layers = [Conv(step, weights, wrap) for step in steps]

    def stage(values: Values) -> None:
        first = values[steps[0].inputs[0]][0]
        height, width = first.shape[-2:]
        out = first.new_empty(layers[-1].co, height, width)
        band = max(1, BAND // width)
        for begin in range(0, height, band):
            end = min(height, begin + band)
            reach = [sum(layer.k // 2 for layer in layers[i:]) for i in range(len(layers) + 1)]
            spans = [(max(0, begin - r), min(height, end + r)) for r in reach]
            y = first[:, spans[0][0] : spans[0][1]]
            for i, (step, layer) in enumerate(zip(steps, layers, strict=True)):
                border, r = str(step.params.get("border", "zero")), layer.k // 2
                rows, zero = _band_rows(*spans[i + 1], height, r, spans[i][0], border)
                columns = _band_rows(0, width, width, r, 0, border)[0]
                y = layer.run(y, rows, columns, zero)
                if len(step.inputs) > 1:
                    y = y + values[step.inputs[1]][0][:, spans[i + 1][0] : spans[i + 1][1]]
            out[:, begin:end] = y
        values[steps[-1].out] = out[None]

    return stage


def channels_last_stage(steps: Sequence[Step], weights: Mapping[str, Tensor], wrap: Wrap) -> Stage:
    """All steps in torch's fastest memory format, as one function."""
    order = {"memory_format": torch.channels_last}
    arrays = {name: w.contiguous(**order) if w.dim() == 4 else w for name, w in weights.items()}
    inner = natural.plain_stage(steps, arrays, wrap)

    def stage(values: Values) -> None:
        values[INPUT] = values[INPUT].contiguous(**order)
        inner(values)

    return stage


def _chains(steps: Sequence[Step]) -> list[list[Step]]:
    """Split consecutive steps into chains of convolutions whose inner values nobody else reads, and single others."""
    groups: list[list[Step]] = []
    for i, step in enumerate(steps):
        last = groups[-1][-1] if groups else None
        outside = {v for later in steps[i:] for v in (later.inputs[1:] if later is step else later.inputs)}
        if (
            step.op == "conv2d"
            and last is not None
            and last.op == "conv2d"
            and step.inputs[0] == last.out
            and last.out not in outside
        ):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _chained(step: Step) -> bool:
    """Whether chain_stage and its fellows know all of a step."""
    more = set(step.params) & {"input_activation", "sum_inside", "gate", "join"} or "slopes" in step.weights
    return step.op in CHAINED and not more and step.params.get("activation", "none") in BEFORE


def stages(steps: Sequence[Step], weights: Mapping[str, Tensor], wrap: Wrap, compiled: bool) -> list[Stage]:
    """The plan as stages, each reading and writing named values."""
    if not all(_chained(step) for step in steps):
        return [channels_last_stage(steps, weights, wrap)]
    found: list[Stage] = []
    for group in _chains(steps):
        if group[0].op == "anchored_regression":
            found.append(anchored_stage(group[0], weights, wrap, compiled))
        elif group[0].op == "conv2d":
            found.append(chain_stage(group, weights, wrap))
        else:
            found.append(natural.plain_stage(group, weights, wrap))
    return found
