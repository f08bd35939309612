# SPDX-License-Identifier: Apache-2.0
"""Layers of a foreign graph -> steps of a plan, with everything folded into convolutions that can be, exactly.

A `Network` is told the layers one by one and gives back a value for each. A value is a step's output (`Plain`) or what is
not made yet, because the layers that read it may take it in: a sum becomes the residual of a convolution or a tap of it, an
activation its end, sigmoid and product its gate, an enlargement a convolution before a shuffle. `readers` says how often a
value is read: only what is read once can be changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastsr import _core
from fastsr.families import folds
from fastsr.plan import INPUT, OUTPUT, Param, Plan, Step

MOST = 8  # inputs of a step
Array = np.ndarray


class Unsupported(ValueError):
    """What a plan cannot express, in words that go on after the layer's name."""


@dataclass(frozen=True)
class Plain:
    """The input, or a step's output."""

    name: str
    channels: int
    scale: int  # of the input's size


@dataclass(frozen=True)
class Joined:
    """Channel after channel."""

    parts: tuple[Plain, ...]


@dataclass(frozen=True)
class Curve:
    """sigmoid of a value"""

    of: Plain


@dataclass(frozen=True)
class Affine:
    """factor[c] of[c] + shift[c]"""

    of: Plain | Curve
    factor: Array
    shift: Array


@dataclass(frozen=True)
class Near:
    """Enlarged by nearest neighbour."""

    of: Plain
    by: int


@dataclass(frozen=True)
class Shuffled:
    """pixel_shuffle of a value"""

    of: Plain
    by: int


@dataclass(frozen=True)
class Sum:
    """factor value + factor value ..."""

    terms: tuple[tuple[float, Plain | Near | Shuffled], ...]


Value = Plain | Joined | Curve | Affine | Near | Shuffled | Sum


class Network:
    """The plan in the making. Methods raise Unsupported."""

    def __init__(self, channels: int) -> None:
        if channels not in (1, 3):
            raise Unsupported(f"reads {channels} channels: networks of images read 1 or 3")
        self.input = Plain(INPUT, channels, 1)
        self.steps: dict[str, Step] = {}
        self.weights: dict[str, Array] = {}
        self._left: dict[str, int] = {}  # how often a step's output is read
        self._made = {INPUT: channels}
        self._count, self._numbers = 0, 0

    # What a reader of files calls, a method per layer.

    def readers(self, x: Value, count: int) -> Value:
        """`x`, which is read `count` times from here on."""
        if count > 1 and not isinstance(x, Plain | Joined):
            x = self.plain(x)
        if isinstance(x, Plain):
            self._left[x.name] = count
        return x

    def conv(self, x: Value, w: Array, b: Array | None) -> Value:
        """k x k, stride 1, zero border. w [Co, Ci, k, k], b [Co]."""
        x = self._settled(x)
        if isinstance(x, Near):
            self.room(w.size * x.by**2)
            bias = None if b is None else folds.repeated(b, x.by)
            return Shuffled(self._conv((x.of,), folds.nearest_conv(w, x.by), bias), x.by)
        return self._conv(x.parts if isinstance(x, Joined) else (self.plain(x),), w, b)

    def deconv(self, x: Value, w: Array, b: Array | None, stride: int, padding: int) -> Value:
        """w [Ci, Co, k, k]; the output is `stride` times the input."""
        if not 1 <= stride <= 16 or w.shape[-1] - 2 * padding != stride:
            raise Unsupported(
                f"kernel {w.shape[-1]}, stride {stride}, padding {padding}: not an enlargement by {stride}"
            )
        self.room(4 * w.size * stride**2)
        bias = None if b is None else folds.repeated(b, stride)
        return Shuffled(self._conv((self.plain(x),), folds.deconv(w, stride, padding), bias), stride)

    def activate(self, x: Value, kind: str, slope: float = 0.0, slopes: Array | None = None) -> Value:
        """kind of `conv2d`'s activations; `slopes` [C] those of a PReLU."""
        x = self._settled(x)
        if isinstance(x, Shuffled):
            more = None if slopes is None else folds.repeated(slopes, x.by)
            inner = self.activate(x.of, kind, slope, more)
            assert isinstance(inner, Plain)
            return Shuffled(inner, x.by)
        made = self.plain(x)
        if slopes is not None and len(slopes) != made.channels:
            raise Unsupported(f"has {len(slopes)} slopes for {made.channels} channels")
        if not self._open(made):
            made = self._mixed([(1.0, made)])
        step = self._taken(made)
        params: dict[str, Param] = {**step.params, "activation": kind}
        if self._residual(step):
            params["sum_inside"] = True
        if slope:
            params["slope"] = float(np.float32(slope))
        roles = dict(step.weights)
        if slopes is not None:
            roles["slopes"] = self._keep(f"{made.name}.slopes", slopes)
        return self._put(replace(step, params=params, weights=roles), made)

    def sigmoid(self, x: Value) -> Value:
        return Curve(self.plain(x))

    def join(self, values: Sequence[Value]) -> Value:
        parts: list[Plain] = []
        for x in values:
            parts += x.parts if isinstance(x, Joined) else (self.plain(x),)
        if len(parts) > MOST:
            raise Unsupported(f"joins {len(parts)} values: {MOST} at most")
        self._same_size(parts)
        return Joined(tuple(parts))

    def affine(self, x: Value, factor: Array, shift: Array) -> Value:
        """factor [C], shift [C], or one number each for all channels"""
        factor, shift = np.atleast_1d(factor).astype(np.float64), np.atleast_1d(shift).astype(np.float64)
        if isinstance(x, Sum) and len(factor) == 1 and not shift.any():
            return Sum(tuple((c * float(factor[0]), value) for c, value in x.terms))
        x = self._settled(x)
        channels = self.channels(x)
        if len(factor) not in (1, channels) or len(shift) not in (1, channels):
            raise Unsupported(f"has {max(len(factor), len(shift))} numbers for {channels} channels")
        factor, shift = np.broadcast_to(factor, channels), np.broadcast_to(shift, channels)
        if isinstance(x, Affine):
            return Affine(x.of, x.factor * factor, x.shift * factor + shift)
        if isinstance(x, Shuffled):
            inner = self.plain(self.affine(x.of, folds.repeated(factor, x.by), folds.repeated(shift, x.by)))
            return Shuffled(inner, x.by)
        if isinstance(x, Curve):
            return Affine(x, factor, shift)
        made = self.plain(x)
        if self._open(made) and not self._residual(self.steps[made.name]):
            return self._scaled(made, factor, shift)
        return Affine(made, factor, shift)

    def add(self, terms: Sequence[tuple[float, Value]]) -> Value:
        found: list[tuple[float, Plain | Near | Shuffled]] = []
        for c, x in terms:
            if isinstance(x, Sum):
                found += [(c * d, value) for d, value in x.terms]
            elif isinstance(x, Affine) and isinstance(x.of, Plain) and not x.shift.any() and len(set(x.factor)) == 1:
                found.append((c * float(x.factor[0]), x.of))
            else:
                found.append((c, x if isinstance(x, Near | Shuffled) else self.plain(x)))
        sizes = {(self.channels(x), self.scale(x)) for _, x in found}
        if len(sizes) > 1:
            raise Unsupported("adds values of different sizes: " + ", ".join(f"{c} channels, x{s}" for c, s in sizes))
        return Sum(tuple(found))

    def multiply(self, a: Value, b: Value) -> Value:
        """x sigmoid(x), or the gate (c + x) (sigmoid(c) - 1/2)."""
        if isinstance(b, Plain | Sum):
            a, b = b, a
        if isinstance(a, Plain) and isinstance(b, Curve) and b.of == a and self._open(a, 2):
            self._left[a.name] = 1
            return self.activate(a, "silu")
        if isinstance(a, Sum) and isinstance(b, Affine) and isinstance(b.of, Curve):
            c = b.of.of
            others = [x for _, x in a.terms if x != c]
            half = (b.factor == 1).all() and (b.shift == -0.5).all()
            plain_sum = [d for d, _ in a.terms] == [1, 1] and len(others) == 1
            if half and plain_sum and self._open(c, 2) and not self._residual(self.steps[c.name]):
                step = self._taken(c)
                step = replace(step, inputs=(*step.inputs, self.plain(others[0]).name))
                return self._put(replace(step, params={**step.params, "gate": True}), c)
        raise Unsupported("multiplies two values: only x sigmoid(x) and (c + x) (sigmoid(c) - 1/2) are known")

    def nearest(self, x: Value, by: int) -> Value:
        if not 1 <= by <= 16:
            raise Unsupported(f"enlarges by {by}: 16 at most")
        return x if by == 1 else Near(self.plain(x), by)

    def shuffle(self, x: Value, by: int) -> Value:
        of = self.plain(x)
        if not 1 <= by <= 16 or of.channels % by**2:
            raise Unsupported(f"shuffles {of.channels} channels by {by}")
        return Shuffled(of, by)

    def halve(self, x: Value) -> Value:
        """Bicubic (a = -3/4, no antialias) to half the size, of what comes out of a shuffle: at its size before that.

        Taps are -3/32, 19/32, 19/32, -3/32, and pixels beyond the edge those on it. At the small size such a pixel is
        of another phase, which only a border can tell: what a replicated one has more than a zero one.
        """
        x = self._settled(x)
        if not isinstance(x, Shuffled) or x.by % 2:
            raise Unsupported("is shrunk by two: only what was enlarged by an even shuffle can be")
        s, of = x.by, x.of
        c, t = of.channels // s**2, s // 2
        self.room(2 * of.channels * c * s * t * 9)
        for vertical in (True, False):
            inside, beyond = np.zeros((2, t, s, 3))
            for i, d, tap in _taps(t):
                row = 2 * i + d
                inside[i, row % s, 1 + row // s] += tap
                if row // s:
                    edge = 0 if row < 0 else s - 1
                    inside[i, edge, 1 + row // s] -= tap
                    beyond[i, edge, 1 + row // s] += tap
            zero, replicated = (_phases(taps, c, s, t, vertical) for taps in (inside, beyond))
            first = self._conv((of,), zero, None)
            of = self._conv((of,), replicated, None, first, border="replicate")
        return Shuffled(of, t)

    def finish(self, x: Value) -> tuple[Plan, dict[str, Array]]:
        """The plan whose output is `x`."""
        out = self.plain(x)
        if out.channels != self.input.channels or out.name == INPUT:
            raise Unsupported(f"gives {out.channels} channels of {self.input.channels}")
        needed, steps = {out.name}, []
        for step in reversed(self.steps.values()):
            if step.out in needed:
                needed |= set(step.inputs)
                steps.append(replace(step, out=OUTPUT) if step.out == out.name else step)
        plan = Plan("y" if out.channels == 1 else "rgb", out.scale, tuple(reversed(steps)))
        return plan, {name: self.weights[name] for name in plan.tensor_names}

    # Facts of values.

    def channels(self, x: Value) -> int:
        if isinstance(x, Joined):
            return sum(part.channels for part in x.parts)
        if isinstance(x, Sum):
            return self.channels(x.terms[0][1])
        if isinstance(x, Shuffled):
            return x.of.channels // x.by**2
        return x.channels if isinstance(x, Plain) else self.channels(x.of)

    def scale(self, x: Value) -> int:
        if isinstance(x, Joined):
            return x.parts[0].scale
        if isinstance(x, Sum):
            return self.scale(x.terms[0][1])
        if isinstance(x, Near | Shuffled):
            return x.of.scale * x.by
        return x.scale if isinstance(x, Plain) else self.scale(x.of)

    # Making what was put off.

    def plain(self, x: Value) -> Plain:
        """`x` as a step's output."""
        x = self._settled(x)
        if isinstance(x, Plain):
            return x
        if isinstance(x, Joined):
            return self._mixed([(1.0, part) for part in x.parts], joined=True)
        if isinstance(x, Curve):
            made = self.activate(x.of, "sigmoid")
            assert isinstance(made, Plain)
            return made
        if isinstance(x, Affine):
            of, name = self.plain(x.of), self._name("affine")
            roles = {"shift": self._keep(f"{name}.shift", x.shift)}
            if (x.factor != 1).any():
                roles["scale"] = self._keep(f"{name}.scale", x.factor)
            return self._put(Step("scale_shift", (of.name,), name, roles), replace(of, name=name))
        if isinstance(x, Near):
            x = Shuffled(self._near(x, 1.0), x.by)
        assert isinstance(x, Shuffled)
        name = self._name("shuffle")
        made = Plain(name, x.of.channels // x.by**2, x.of.scale * x.by)
        return self._put(Step("pixel_shuffle", (x.of.name,), name, {}, {"scale": x.by}), made)

    def _settled(self, x: Value) -> Value:
        """`x`, where it is a sum as what it comes to."""
        if not isinstance(x, Sum):
            return x
        by = {value.by for _, value in x.terms if isinstance(value, Near | Shuffled)}
        enlarged = all(isinstance(value, Near | Shuffled) for _, value in x.terms)
        if enlarged and len(by) == 1 and any(isinstance(value, Shuffled) for _, value in x.terms):
            small = [(1.0, self._near(v, c)) if isinstance(v, Near) else (c, self.plain(v.of)) for c, v in x.terms]  # type: ignore[union-attr]
            return Shuffled(self._summed(small), by.pop())
        return self._summed([(c, self.plain(value)) for c, value in x.terms])

    def _near(self, x: Near, factor: float) -> Plain:
        self.room(x.of.channels**2 * x.by**2)
        return self._conv((x.of,), factor * folds.nearest(x.of.channels, x.by), None)

    def _summed(self, terms: list[tuple[float, Plain]]) -> Plain:
        """The sum as the residual and the taps of one of its convolutions, where one can be changed."""
        for c, x in terms:
            if not self._open(x, ended=c == 1) or self._residual(self.steps[x.name]):
                continue
            step = self.steps[x.name]
            if len(step.inputs) >= MOST:
                continue
            rest = [term for term in terms if term[1] != x]
            # An identity is best as the residual, which is not rounded; taps take what the convolution reads anyway.
            ones = sorted((t for t in rest if t[0] == 1), key=lambda t: t[1].name in step.inputs)
            rest = [t for t in rest if t not in ones[:1]]
            beside = [t for t in rest if t[1].name not in step.inputs or self._ended(x)] + ones[:1]
            inside = [t for t in rest if t not in beside]
            residual = None if not beside else beside[0][1] if beside == ones[:1] else self._mixed(beside)
            if c != 1 or inside:
                self._scaled(x, np.full(x.channels, c), np.zeros(x.channels), inside)
            step = self._taken(x)
            return self._put(replace(step, inputs=(*step.inputs, residual.name) if residual else step.inputs), x)
        if len(terms) == 1 and terms[0][0] != 1:
            c, x = terms[0]
            return self.plain(Affine(x, np.full(x.channels, c), np.zeros(x.channels)))
        return terms[0][1] if len(terms) == 1 else self._mixed(terms)

    def _mixed(self, terms: Sequence[tuple[float, Plain]], joined: bool = False) -> Plain:
        """A 1 x 1 convolution that adds its inputs, or copies them one after the other."""
        if len(terms) > MOST:
            return self._mixed([(1.0, self._mixed(terms[:MOST])), *terms[MOST:]])
        sizes = [x.channels for _, x in terms]
        rows = sum(sizes) if joined else sizes[0]
        self.room(rows * sum(sizes))
        blocks = [c * np.eye(x.channels) for c, x in terms]
        if joined:
            w, at = np.zeros((rows, rows)), 0
            for block in blocks:
                w[at : at + len(block), at : at + len(block)] = block
                at += len(block)
        else:
            w = np.concatenate(blocks, 1)
        return self._conv([x for _, x in terms], w[:, :, None, None], None)

    def _scaled(self, x: Plain, factor: Array, shift: Array, inside: Sequence[tuple[float, Plain]] = ()) -> Plain:
        """A convolution's output times factor [C], plus shift [C], plus what it reads times a number."""
        step = self._taken(x)
        w = self.weights[step.weights["w"]].astype(np.float64) * factor[:, None, None, None]
        b = self.weights[step.weights["b"]].astype(np.float64) if "b" in step.weights else np.zeros(x.channels)
        centre, at = w.shape[-1] // 2, 0
        for name in step.inputs:
            channels = self._made[name]
            for c, value in inside:
                if value.name == name:
                    w[range(channels), range(at, at + channels), centre, centre] += c
            inside = [term for term in inside if term[1].name != name]
            at += channels
        roles = {"w": self._keep(f"{x.name}.w", w)}
        if "b" in step.weights or shift.any():
            roles["b"] = self._keep(f"{x.name}.b", b * factor + shift)
        return self._put(replace(step, weights=roles), x)

    # Steps.

    def _conv(
        self, parts: Sequence[Plain], w: Array, b: Array | None, residual: Plain | None = None, **params: Param
    ) -> Plain:
        self._same_size(parts)
        channels = sum(part.channels for part in parts)
        if w.shape[1] != channels:
            raise Unsupported(f"reads {w.shape[1]} channels, but there are {channels}")
        if b is not None and len(b) != len(w):
            raise Unsupported(f"has {len(b)} biases for {len(w)} channels")
        name = self._name("conv")
        roles = {"w": self._keep(f"{name}.w", w)}
        if b is not None:
            roles["b"] = self._keep(f"{name}.b", b)
        if len(parts) > 1:
            params["join"] = len(parts)
        inputs = [*parts, residual] if residual else parts
        made = Plain(name, len(w), parts[0].scale)
        return self._put(Step("conv2d", tuple(x.name for x in inputs), name, roles, params), made)

    def _open(self, x: Plain, readers: int = 1, ended: bool = False) -> bool:
        """Whether `x` is a convolution that can still be changed; `ended`: also one with an activation."""
        step = self.steps.get(x.name)
        if step is None or step.op != "conv2d" or self._left.get(x.name, 1) != readers or step.params.get("gate"):
            return False
        return ended or not self._ended(x)

    def _ended(self, x: Plain) -> bool:
        return "activation" in self.steps[x.name].params

    @staticmethod
    def _residual(step: Step) -> bool:
        return len(step.inputs) > int(step.params.get("join", 1))

    def _taken(self, x: Plain) -> Step:
        """The step, to be changed and put at the end, where all that it may read is made."""
        return self.steps.pop(x.name)

    def _put(self, step: Step, made: Plain) -> Plain:
        self.steps[made.name] = step
        self._left[made.name] = 1
        self._made[made.name] = made.channels
        return made

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _keep(self, name: str, value: Array) -> str:
        self.weights[name] = np.ascontiguousarray(value, np.float32)
        return name

    def room(self, numbers: int) -> None:
        """Raise Unsupported before so many numbers are made of nothing."""
        self._numbers += numbers
        most = _core.MODEL_LIMITS["weight_bytes"] // 4
        if self._numbers > most:
            raise Unsupported(f"takes {self._numbers} weights: {most} at most")

    @staticmethod
    def _same_size(values: Sequence[Plain]) -> None:
        scales = sorted({x.scale for x in values})
        if len(scales) > 1:
            raise Unsupported(f"reads values of different sizes: {', '.join(f'x{s}' for s in scales)}")


def _taps(count: int) -> list[tuple[int, int, float]]:
    """(new row, old row less twice the new, tap) of a bicubic that halves."""
    taps = ((-1, -3 / 32), (0, 19 / 32), (1, 19 / 32), (2, -3 / 32))
    return [(i, d, tap) for i in range(count) for d, tap in taps]


def _phases(
    taps: Array,  # [t, s, 3]: new phase, old phase, offset
    c: int,
    s: int,
    t: int,
    vertical: bool,  # rows [c, s, s] -> [c, t, s], then columns [c, t, s] -> [c, t, t]
) -> Array:  # [Co, Ci, 3, 3]
    image, other = np.eye(c), np.eye(s if vertical else t)
    if vertical:
        w = np.einsum("ab,ips,jq->aijbpqs", image, taps, other)
        full = np.zeros((*w.shape[:-1], 3, 3))
        full[..., :, 1] = w
    else:
        w = np.einsum("ab,ip,jqs->aijbpqs", image, other, taps)
        full = np.zeros((*w.shape[:-1], 3, 3))
        full[..., 1, :] = w
    co, ci = int(np.prod(w.shape[:3])), int(np.prod(w.shape[3:6]))
    found: Array = full.reshape(co, ci, 3, 3)
    return found
