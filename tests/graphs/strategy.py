# SPDX-License-Identifier: Apache-2.0
"""Random plans of all ops, valid by construction.

A plan is drawn as a list of `Recipe`s, small integers each, and `build` reads any such list as a valid plan: a recipe that
asks for the fifth value where there are three gets the second, one whose convolution costs too much a narrower one. So
nothing is rejected, and what Hypothesis does to make a failure small (take recipes away, lower their numbers) always
gives another valid plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from graphs.case import Case, Setting, Tensor
from hypothesis import strategies as st

OPS = (
    "conv2d",
    "scale_shift",
    "resize_bicubic",
    "pixel_shuffle",
    "pconv_block",
    "cista",
    "upsample_residual",
    "anchored_regression",
)
BORDERS = ("zero", "replicate", "symmetric")
ACTIVATIONS = ("none", "relu", "leaky_relu")
SCALES = (1, 2, 3, 4, 6, 8, 12, 16)
WORK = 5e7
"""multiply-adds of a plan, about: 40 runs of it, some without vector instructions, take half a second"""
PIXELS = 20000
"""of the output"""


@dataclass(frozen=True)
class Recipe:
    """What to make of one step. All fields are drawn for every op, which reads those it has."""

    op: str
    source: int  # which value to read, the last one first
    other: int  # 0: no residual; else which of the values that fit
    width: int  # channels to make
    kernel: int
    border: str
    before: str  # activation of what is read
    after: str  # activation of the sum
    slope: float
    inside: bool
    bias: int  # 0: none; 1: a new one; else one that exists
    share: int  # 0: a new tensor; else which of those that exist and fit
    factor: int  # of an op that enlarges
    more: int  # cista: steps; anchored_regression: atoms
    joined: tuple[int, ...]  # which values conv2d reads beside the first, joined by channel
    end: str  # of conv2d, in the place of `after`: a curve, a gate where there is a residual, a slope per channel


@dataclass(frozen=True)
class Frame:
    """The plan around its steps."""

    color: bool
    scale: int
    height: int
    width: int
    seed: int
    bare: bool  # the last step makes `out` itself, where it can; else a convolution more
    algorithm: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Value:
    name: str
    channels: int
    scale: int


def recipes() -> st.SearchStrategy[Recipe]:
    near = st.one_of(st.just(0), st.integers(0, 2), st.integers(0, 7))
    edges = st.sampled_from([16, 17, 24, 31, 32, 33, 48, 64, 65, 96, 128])
    return st.builds(
        Recipe,
        op=st.sampled_from(("conv2d",) * 9 + OPS[1:]),
        source=near,
        other=st.one_of(st.just(0), st.integers(1, 2), st.integers(0, 6)),
        width=st.one_of(st.integers(1, 8), edges, edges, st.integers(1, 300)),
        kernel=st.sampled_from([1, 3, 3, 3, 5, 7, 9, 13]),
        border=st.sampled_from(BORDERS),
        before=st.sampled_from(("none", *ACTIVATIONS)),
        after=st.sampled_from(ACTIVATIONS),
        slope=st.sampled_from([0.0, 0.2, 1.5, -0.4]),
        inside=st.booleans(),
        bias=st.integers(0, 3),
        share=st.sampled_from([0, 0, 0, 1, 2, 3]),
        factor=st.sampled_from([2, 3, 4, 1, 6, 8]),
        more=st.integers(1, 70),
        joined=st.one_of(st.just(()), st.lists(st.integers(0, 6), max_size=3).map(tuple)),
        end=st.sampled_from(("", "", "", "silu", "sigmoid", "tanh", "gate", "slopes")),
    )


def settings() -> st.SearchStrategy[tuple[Setting, ...]]:
    """One thread, then threads in any order, tiles, and a memory limit."""
    seeds = st.integers(1, 99)
    return st.tuples(
        st.just(Setting()),
        st.builds(Setting, threads=st.just(2), shuffle=seeds),
        st.builds(Setting, threads=st.just(5), shuffle=seeds, tile=st.integers(3, 90)),
        st.builds(Setting, threads=st.sampled_from([1, 2]), limit=st.sampled_from([0.9, 0.7, 0.5])),
    )


def frames() -> st.SearchStrategy[Frame]:
    """Images are narrow more often than flat: what a task keeps slides down the rows."""
    small, odd = st.integers(1, 40), st.sampled_from([11, 13, 31, 43, 61, 97])
    return st.builds(
        Frame,
        color=st.booleans(),
        scale=st.sampled_from((1, 1, 2, 3, 4, *SCALES)),
        height=st.one_of(small, odd, st.integers(1, 300), st.integers(20, 120)),
        width=st.one_of(st.integers(1, 9), small, odd, st.integers(1, 300)),
        seed=st.integers(0, 9),
        bare=st.booleans(),
        algorithm=st.sampled_from(["", "", "", "", "", "direct", "columns", "tiles"]),
        settings=settings(),
    )


def cases() -> st.SearchStrategy[Case]:
    few, many = (st.lists(recipes(), min_size=1, max_size=most) for most in (5, 12))
    return st.builds(build, frames(), st.one_of(few, few, many))


def build(frame: Frame, steps: list[Recipe]) -> Case:
    return Builder(frame).build(steps)


class Builder:
    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.planes = 3 if frame.color else 1
        self.height = min(frame.height, PIXELS // frame.scale**2)
        self.width = max(1, min(frame.width, PIXELS // frame.scale**2 // self.height))
        self.values = [Value("lr", self.planes, 1)]
        self.unread: list[Value] = []  # made, and read by nothing yet
        self.steps: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self.left = WORK

    def build(self, recipes: list[Recipe]) -> Case:
        for recipe in recipes:
            getattr(self, recipe.op)(recipe, self.pick(recipe))
        self.end(recipes[-1])
        plan = {"domain": "rgb" if self.frame.color else "y", "scale": self.frame.scale, "steps": self.steps}
        return Case(
            plan,
            self.tensors,
            self.height,
            self.width,
            self.frame.seed,
            self.frame.algorithm,
            self.tiled(self.frame.settings),
        )

    def tiled(self, settings: tuple[Setting, ...]) -> tuple[Setting, ...]:
        """At most about 60 tiles a run: their halos are made again for each."""
        least = math.ceil(math.sqrt(self.height * self.width / 60))
        return tuple(Setting(s.threads, max(s.tile, least) if s.tile else 0, s.shuffle, s.limit) for s in settings)

    # Values.

    def pick(self, recipe: Recipe) -> Value:
        return self.values[-1 - min(recipe.source, len(self.values) - 1)]

    def fitting(self, fits: Callable[[Value], bool]) -> list[Value]:
        return [value for value in reversed(self.values) if fits(value)]

    def pixels(self, scale: int) -> int:
        return self.height * self.width * scale**2

    def spend(self, work: float) -> None:
        self.left -= work

    def factor(self, recipe: Recipe, x: Value, largest: int = 16) -> int:
        """What an op may enlarge by, so that the plan's scale stays a multiple of every value's."""
        rest = self.frame.scale // x.scale
        return max(f for f in range(1, min(recipe.factor, largest, rest) + 1) if rest % f == 0)

    def step(
        self, op: str, inputs: list[Value], channels: int, factor: int, weights: dict[str, str], **params: Any
    ) -> Value:
        out = Value(f"v{len(self.values)}", channels, inputs[0].scale * factor)
        names = [value.name for value in inputs]
        self.steps.append({"op": op, "inputs": names, "out": out.name, "weights": weights, "params": params})
        self.unread = [value for value in self.unread if value not in inputs] + [out]
        self.values.append(out)
        return out

    # Tensors.

    def tensor(self, shape: tuple[int, ...], std: float, half: bool = False) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = Tensor(shape, round(std, 5), half)
        return name

    def shared(self, recipe: Recipe, fits: Callable[[tuple[int, ...]], bool]) -> str | None:
        found = [name for name, tensor in self.tensors.items() if fits(tensor.shape)] if recipe.share else []
        return found[-1 - (recipe.share - 1) % len(found)] if found else None

    def vector(self, choice: int, n: int, std: float = 0.1) -> str:
        found = [name for name, tensor in self.tensors.items() if tensor.shape == (n,)]
        return found[-1 - choice % len(found)] if choice > 1 and found else self.tensor((n,), std)

    def biases(self, recipe: Recipe, role: str, n: int) -> Iterator[tuple[str, str]]:
        if recipe.bias:
            yield role, self.vector(recipe.bias, n)

    def beside(self, recipe: Recipe, x: Value) -> list[Value]:
        """Values whose channels follow those of x, x itself among them now and then; few where x is wide."""
        fits = self.fitting(lambda v: v.scale == x.scale and v.channels <= max(1, 256 // (1 + len(recipe.joined))))
        return [fits[i % len(fits)] for i in recipe.joined] if fits and x.channels <= 256 else []

    def kernel(self, recipe: Recipe, x: Value, co: int | None, sides: tuple[int, ...] = ()) -> str:
        """A convolution's tensor that the work left allows: one that exists, or a new one."""
        most = self.left / 2 / self.pixels(x.scale)  # multiply-adds a pixel

        def fits(s: tuple[int, ...]) -> bool:
            new = co is None or s[0] == co
            return len(s) == 4 and new and s[1] == x.channels and s[2] == s[3] and bool(s[2] % 2)

        found = self.shared(recipe, lambda s: fits(s) and (not sides or s[2] in sides) and math.prod(s) <= most)
        if found is None:
            k = min(recipe.kernel, max(sides)) if sides else recipe.kernel
            while k > 1 and (co or 1) * x.channels * k * k > most and (not sides or k > min(sides)):
                k -= 2
            width = co or int(max(1, min(recipe.width, most / (x.channels * k * k))))
            found = self.tensor((width, x.channels, k, k), 0.7 / math.sqrt(x.channels * k * k))
        self.spend(float(math.prod(self.tensors[found].shape)) * self.pixels(x.scale))
        return found

    # Ops, one method each.

    def conv2d(self, recipe: Recipe, x: Value, co: int | None = None, residual: Value | None = None) -> Value:
        parts = [x, *self.beside(recipe, x)]
        whole = Value("", sum(part.channels for part in parts), x.scale)
        if recipe.other and not residual:
            most = self.left / 2 / self.pixels(x.scale) / whole.channels
            fits = self.fitting(lambda v: v.scale == x.scale and v.channels <= most and co in (None, v.channels))
            residual = fits[(recipe.other - 1) % len(fits)] if fits else None
        w = self.kernel(recipe, whole, residual.channels if residual else co)
        made = self.tensors[w].shape[0]
        weights = {"w": w, **dict(self.biases(recipe, "b", made))}
        given = {"border": recipe.border, "activation": recipe.after, "input_activation": recipe.before}
        params: dict[str, Any] = {name: value for name, value in given.items() if value not in ("none", "zero")}
        if "leaky_relu" in params.values():
            params["slope"] = recipe.slope
        if residual and recipe.inside:
            params["sum_inside"] = True
        if recipe.end == "gate":
            if residual:
                params = {key: value for key, value in params.items() if key not in ("activation", "sum_inside")}
                params["gate"] = True
        elif recipe.end == "slopes":
            params["activation"] = "leaky_relu"
            weights["slopes"] = self.vector(recipe.share, made, 0.4)
        elif recipe.end:
            params["activation"] = recipe.end
        if len(parts) > 1:
            params["join"] = len(parts)
        return self.step("conv2d", [*parts, residual] if residual else parts, made, 1, weights, **params)

    def scale_shift(self, recipe: Recipe, x: Value) -> Value:
        weights = {"shift": self.vector(recipe.bias, x.channels)}
        if recipe.inside:
            weights["scale"] = self.vector(recipe.share, x.channels, 1.0)
        return self.step("scale_shift", [x], x.channels, 1, weights)

    def resize_bicubic(self, recipe: Recipe, x: Value) -> Value:
        x = self.narrowed(recipe, x, 64)
        factor = self.factor(recipe, x)
        return self.step("resize_bicubic", [x], x.channels, factor, {}, scale=factor)

    def pixel_shuffle(self, recipe: Recipe, x: Value, co: int | None = None) -> Value:
        factor = self.factor(recipe, x)
        if co or x.channels % factor**2:
            x = self.plain(recipe, x, (co or 1 + recipe.width % 9) * factor**2)
        return self.step("pixel_shuffle", [x], x.channels // factor**2, factor, {}, scale=factor)

    def pconv_block(self, recipe: Recipe, x: Value) -> Value:
        w1 = self.kernel(recipe, x, None, sides=(1,))
        inner = Value("", self.tensors[w1].shape[0], x.scale)
        w3 = self.kernel(recipe, inner, x.channels, sides=(3,))
        biases = (*self.biases(recipe, "b1", inner.channels), *self.biases(recipe, "b3", x.channels))
        params: dict[str, Any] = {} if recipe.after == "relu" else {"activation": recipe.after}
        if recipe.after == "leaky_relu":
            params["slope"] = recipe.slope
        return self.step("pconv_block", [x], x.channels, 1, {"w1": w1, "w3": w3, **dict(biases)}, **params)

    def cista(self, recipe: Recipe, x: Value) -> Value:
        w = self.kernel(recipe, x, None)
        inner = Value("", self.tensors[w].shape[0], x.scale)
        s = self.kernel(recipe, inner, inner.channels)
        steps = 1 + recipe.more % 4
        self.spend((steps - 1) * float(math.prod(self.tensors[s].shape)) * self.pixels(x.scale))
        return self.step("cista", [x], inner.channels, 1, {"w": w, "s": s}, steps=steps)

    def upsample_residual(self, recipe: Recipe, x: Value) -> Value:
        factor = self.factor(recipe, x, 4)
        if factor < 2:
            return self.conv2d(recipe, x)
        most = math.sqrt(max(1.0, self.left / 2 / self.pixels(x.scale * factor)))
        x = self.narrowed(recipe, x, int(min(most, 300)))
        shape = (x.channels, x.channels, factor, factor)
        w = self.shared(recipe, lambda s: s == shape) or self.tensor(shape, 0.5 / math.sqrt(x.channels))
        self.spend(x.channels**2 * self.pixels(x.scale * factor))
        params: dict[str, Any] = {} if recipe.before == "relu" else {"activation": recipe.before}
        if recipe.before == "leaky_relu":
            params["slope"] = recipe.slope
        weights = {"w": w, **dict(self.biases(recipe, "b", x.channels))}
        return self.step("upsample_residual", [x], x.channels, factor, weights, scale=factor, **params)

    def anchored_regression(self, recipe: Recipe, x: Value) -> Value:
        if x.channels > 1:
            x = self.plain(recipe, x, 1)
        factor = self.factor(recipe, x, 8)
        fits = self.fitting(lambda v: v.channels == 1 and v.scale == x.scale * factor)
        if not fits:
            fits = [self.step("resize_bicubic", [x], 1, factor, {}, scale=factor)]
        base = fits[recipe.other % len(fits)]
        f, atoms, pixels = min(recipe.kernel, 9), recipe.more, 9 * factor**2
        per_feature = (f * f + atoms + pixels) * (self.pixels(x.scale) + 2 * (self.height + self.width) * x.scale + 4)
        n = int(max(1, min(recipe.width, 256, self.left / 2 / per_feature)))
        self.spend(n * per_feature)
        weights = {
            "filters": self.tensor((n, f, f), 1 / f),
            "atoms": self.tensor((atoms, n), 1 / math.sqrt(n)),
            "projections": self.tensor((atoms, pixels, n), 0.5 / math.sqrt(n), half=recipe.inside),
        }
        return self.step("anchored_regression", [x, base], 1, factor, weights, scale=factor)

    # What a recipe needs besides.

    def plain(self, recipe: Recipe, x: Value, co: int, residual: Value | None = None) -> Value:
        """A 1 x 1 or 3 x 3 convolution to `co` channels; its cost is not asked for, callers keep it small."""
        k = 3 if recipe.kernel > 1 and co * x.channels * 9 * self.pixels(x.scale) < self.left else 1
        w = self.tensor((co, x.channels, k, k), 0.7 / math.sqrt(x.channels * k * k))
        self.spend(co * x.channels * k * k * self.pixels(x.scale))
        params = {} if recipe.border == "zero" else {"border": recipe.border}
        return self.step("conv2d", [x, residual] if residual else [x], co, 1, {"w": w}, **params)

    def narrowed(self, recipe: Recipe, x: Value, most: int) -> Value:
        """`x` where it is at most so wide; else the widest value that is, at worst made for this."""
        if x.channels <= most:
            return x
        fits = self.fitting(lambda v: v.scale == x.scale and v.channels <= most)
        return fits[0] if fits else self.plain(recipe, x, max(1, most))

    def enlarged(self, recipe: Recipe, x: Value) -> Value:
        """`planes` channels at the plan's scale, by bicubic or by a shuffle."""
        factor = self.frame.scale // x.scale
        if factor > 1 and recipe.inside and x.channels * self.planes * factor**2 * self.pixels(x.scale) < 1e7:
            x = self.plain(recipe, x, self.planes * factor**2)
            return self.step("pixel_shuffle", [x], self.planes, factor, {}, scale=factor)
        if x.channels != self.planes or factor == 1:
            x = self.plain(recipe, x, self.planes)
        return self.step("resize_bicubic", [x], self.planes, factor, {}, scale=factor) if factor > 1 else x

    def end(self, recipe: Recipe) -> None:
        """Joins all that nothing reads yet to `out`."""
        last = self.values[-1]
        done = last.channels == self.planes and last.scale == self.frame.scale and len(self.unread) == 1
        if not done or not self.frame.bare:
            *others, last = self.unread
            residual: Value | None = None
            for value in others:
                if value.scale < self.frame.scale:
                    value = self.enlarged(recipe, value)
                residual = self.plain(recipe, value, self.planes, residual)
            if last.scale < self.frame.scale:
                last = self.enlarged(recipe, last)
            if residual or last.channels != self.planes or not self.frame.bare:
                self.plain(recipe, last, self.planes, residual)
        self.steps[-1]["out"] = "out"
