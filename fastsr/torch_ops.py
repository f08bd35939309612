# SPDX-License-Identifier: Apache-2.0
"""The ops as torch operators, `torch.ops.fastsr.<op>`, for modules, autograd and torch.compile.

>>> from fastsr import torch_ops
>>> z = torch_ops.cista(y, w=w, s=s, steps=25)

Arguments are those of `fastsr.ops.<op>.reference`; optional tensors that others follow are given, if as None. What
conv2d's x is joined with is a list, `joined`.

CUDA tensors go through the Triton kernel where it supports them (the dtype of the first wide input is the working
dtype); float32 tensors on the CPU through the C++ core, on `torch.get_num_threads()` threads, image by image; anything
else by the reference formula, whose errors a wrong shape gets. Derivatives are the reference's, once (not twice)
differentiable.

Packed weights are kept by the tensors' identity, so that a weight written in place is packed anew: on the CPU by what it
holds, on CUDA by torch's count of writes, which does not see one through `.data` (an exponential mean of weights, say: pack
anew with `torch_ops.forget()`).

torch.func's transforms (grad, vmap, jacrev) go through the formula, which they can look into.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fastsr import _core
from fastsr.errors import ModelError
from fastsr.executors import devices
from fastsr.gpu.gpu import on
from fastsr.ops import OPS
from fastsr.plan import Step

ACTIVATION = 'str activation="relu", float slope=0.0'
SCHEMAS = {
    "resize_bicubic": "Tensor x, int scale",
    "conv2d": 'Tensor x, Tensor? residual, Tensor w, Tensor? b=None, str border="zero", '
    'str input_activation="none", str activation="none", bool sum_inside=False, float slope=0.0, '
    "Tensor? slopes=None, bool gate=False, Tensor[]? joined=None",
    "anchored_regression": "Tensor x, Tensor base, Tensor filters, Tensor atoms, Tensor projections, int scale",
    "pconv_block": f"Tensor x, Tensor w1, Tensor? b1, Tensor w3, Tensor? b3=None, {ACTIVATION}",
    "upsample_residual": f"Tensor x, Tensor w, Tensor? b, int scale, {ACTIVATION}",
    "cista": "Tensor y, Tensor w, Tensor s, int steps",
    "pixel_shuffle": "Tensor x, int scale",
    "scale_shift": "Tensor x, Tensor? scale, Tensor shift",
}
"""arguments by op; derivatives exist of positional ones only, so none is for keywords alone"""
INPUTS = ("x", "y", "base", "joined", "residual")
"""arguments that are tensors of images, in the order of the reference; other tensors are weights"""
HERE = object()
"""stands for a tensor among arguments"""
PACKED = 64
"""kernels with packed weights that are kept, the last used"""

_library: Any = torch.library.Library("fastsr", "DEF")  # type: ignore[no-untyped-call]
_lock = threading.Lock()
_packed: OrderedDict[tuple[Any, ...], tuple[list[Any], list[Any], Any]] = OrderedDict()
"""(what, the weights' ids) -> weak references to the weights, what they held (_held), what was made of them"""


def _reference(op: str) -> Callable[..., Tensor]:
    return importlib.import_module(f"fastsr.ops.{op}").reference  # type: ignore[no-any-return]


def _split(op: str, args: tuple[Any, ...]) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Any]]:
    """(inputs, weights, params) of a call; absent tensors are left out."""
    names = [part.split()[-1].partition("=")[0] for part in SCHEMAS[op].split(", ")]
    named = {name: value for name, value in zip(names, args, strict=False) if value is not None}
    inputs = _flat(named[name] for name in INPUTS if name in named)
    joined = named.pop("joined", [])
    weights = {name: v for name, v in named.items() if name not in INPUTS and isinstance(v, Tensor)}
    params = {name: v for name, v in named.items() if not isinstance(v, Tensor)}
    return inputs, weights, params | ({"join": 1 + len(joined)} if joined else {})


def _flat(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments, those of lists included."""
    lists = [value if isinstance(value, (list, tuple)) else [value] for value in values]
    return [value for values in lists for value in values if isinstance(value, Tensor)]


def _like(values: Iterable[Any], tensors: Iterable[Any]) -> list[Any]:
    """Arguments, with these in the places of their tensors, or of HERE."""
    left = iter(tensors)
    return [
        [next(left) for _ in value]
        if isinstance(value, (list, tuple))
        else next(left)
        if value is HERE or isinstance(value, Tensor)
        else value
        for value in values
    ]


def _by_formula(op: str) -> Callable[..., Tensor]:
    def run(*args: Any) -> Tensor:
        inputs, weights, params = _split(op, args)
        return _fresh(_reference(op)(*inputs, **weights, **params), inputs)

    return run


def _fresh(out: Tensor, inputs: list[Tensor]) -> Tensor:
    """An operator's result is a tensor of its own, dense in the order of its dimensions."""
    return out.clone() if any(out is x for x in inputs) else out.contiguous()


def _by_kernel(op: str) -> Callable[..., Tensor]:
    plain = _by_formula(op)

    def run(*args: Any) -> Tensor:
        inputs, weights, params = _split(op, args)
        device, dtype = inputs[0].device, inputs[0].dtype
        if devices.missing(str(device)):
            return plain(*args)
        kernel = importlib.import_module(f"fastsr.kernels.triton.{op}")
        if kernel.supports(params, {role: tuple(w.shape) for role, w in weights.items()}, dtype):
            return plain(*args)

        def pack() -> Any:
            return kernel.pack({role: w.detach().float() for role, w in weights.items()}, params, dtype, device)

        with on(device):
            packed = _kept((op, dtype, str(device), *sorted(params.items())), weights, pack)
            out = kernel.launch(packed, *inputs, **params)
        return _fresh(out.to(dtype), inputs)

    return run


def _by_core(op: str) -> Callable[..., Tensor]:
    plain, shape = _by_formula(op), _shape(op)

    def run(*args: Any) -> Tensor:
        inputs, weights, params = _split(op, args)
        if any(t.dtype != torch.float32 for t in (*inputs, *weights.values())):
            return plain(*args)
        if any(x.dim() != 4 or x.numel() == 0 for x in inputs):
            return plain(*args)
        channels, threads = [x.shape[1] for x in inputs], torch.get_num_threads()
        what = (op, *channels, threads, *sorted(params.items()))
        session = _kept(what, weights, lambda: _session(op, channels, weights, params, threads))
        if session is None:
            return plain(*args)
        out = shape(*args)
        join, (n, _, *size) = params.get("join", 1), out.shape
        if any(x.shape != out.shape for x in inputs[join:]):  # they broadcast, or do not fit
            return plain(*args)
        if any([x.shape[0], *x.shape[2:]] != [n, *size] for x in inputs[1:join]):
            return plain(*args)
        x, *others = (t.detach().contiguous().numpy() for t in inputs)
        for i, image in enumerate(out.numpy()):
            session.run(x[i], [other[i] for other in others], out=image)
        return out

    return run


def _step(op: str, inputs: int, weights: Iterable[str], params: dict[str, Any]) -> Step:
    return Step(op, tuple(f"input{i}" for i in range(inputs)), "out", {role: role for role in weights}, params)


def _session(
    op: str, channels: list[int], weights: dict[str, Tensor], params: dict[str, Any], threads: int
) -> _core.Session | None:
    """The op prepared by the C++ core; None where its rule declines."""
    step = _step(op, len(channels), weights, params)
    arrays = {role: w.detach().contiguous().numpy() for role, w in weights.items()}
    try:
        return _core.Session(step.to_dict(), arrays, channels=channels, threads=threads)
    except ModelError:
        return None


def _kept(what: tuple[Any, ...], weights: dict[str, Tensor], make: Callable[[], Any]) -> Any:
    """What `make` makes of the weights; made anew when one of them was written or is another tensor."""
    tensors = [weights[role] for role in sorted(weights)]
    if any(w.is_cuda and w.is_inference() for w in tensors):  # their writes are not counted
        return make()
    key = (*what, *sorted(weights), *map(id, tensors))
    with _lock:
        kept = _packed.get(key)
        # An id may be given again after its tensor is gone.
        if kept is None or any(alive() is None for alive in kept[0]) or not all(map(_holds, tensors, kept[1])):
            for gone in [k for k, (alive, _, _) in _packed.items() if any(ref() is None for ref in alive)]:
                del _packed[gone]
            kept = _packed[key] = ([weakref.ref(w) for w in tensors], [_held(w) for w in tensors], make())
        _packed.move_to_end(key)
        while len(_packed) > PACKED:
            _packed.popitem(last=False)
        return kept[2]


def _held(w: Tensor) -> Any:
    """What tells whether a weight was written: a copy, or on CUDA, where to compare would wait for the device, a count."""
    return w._version if w.is_cuda else w.detach().clone()


def _holds(w: Tensor, held: Any) -> bool:
    return bool(w._version == held) if w.is_cuda else torch.equal(w.detach(), held)


def forget() -> None:
    """Drop all packed weights: the next call of an operator packs its own anew."""
    with _lock:
        _packed.clear()


def _shape(op: str) -> Callable[..., Tensor]:
    """What the result looks like: by the op's rule, or by the formula where the rule declines and the formula does not."""
    plain = _by_formula(op)

    def fake(*args: Any) -> Tensor:
        inputs, weights, params = _split(op, args)
        try:
            shapes = {role: tuple(map(int, w.shape)) for role, w in weights.items()}
            channels = [int(x.shape[1]) for x in inputs]
            graph = _core.Graph(_step(op, len(inputs), weights, params).to_dict(), shapes, channels=channels)
        except ModelError:
            return plain(*args)
        (n, _, h, w), (c, up, _) = inputs[0].shape, graph.out_shape(1, 1)
        return inputs[0].new_empty((n, c, h * up, w * up))

    return fake


def _gradients(op: str) -> Callable[..., list[Tensor]]:
    """(grad, *arguments) -> a gradient for each tensor among the arguments, by the reference computed again."""

    def run(grad: Tensor, *args: Any) -> list[Tensor]:
        with torch.enable_grad():
            leaves = [a.detach().requires_grad_() for a in _flat(args)]
            inputs, weights, params = _split(op, tuple(_like(args, leaves)))
            out = _reference(op)(*inputs, **weights, **params)
        found = torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return [torch.zeros_like(a) if g is None else g.contiguous() for a, g in zip(leaves, found, strict=True)]

    return run


def _register(op: str) -> None:
    """Define fastsr::<op>, its implementations, its shape and its derivative, which is an operator as well."""
    _library.define(f"{op}({SCHEMAS[op]}) -> Tensor")
    _library.define(f"{op}_backward(Tensor grad, {SCHEMAS[op]}) -> Tensor[]")
    _library.impl(op, _by_core(op), "CPU")
    _library.impl(op, _by_kernel(op), "CUDA")
    for key in ("CPU", "CUDA"):
        _library.impl(f"{op}_backward", _gradients(op), key)

    def empty(grad: Tensor, *args: Any) -> list[Tensor]:
        return [a.new_empty(a.shape) for a in _flat(args)]

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.others = _like(inputs, itertools.repeat(HERE))
        ctx.save_for_backward(*_flat(inputs))

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values = _like(ctx.others, ctx.saved_tensors)
        found = getattr(torch.ops.fastsr, f"{op}_backward")(grad.contiguous(), *values)
        gradients = _like([v if v is HERE or isinstance(v, (list, tuple)) else None for v in ctx.others], found)
        return tuple(gradients[: len(ctx.needs_input_grad)])  # arguments at the end that were not given have none

    torch.library.register_fake(f"fastsr::{op}", _shape(op), lib=_library)
    torch.library.register_fake(f"fastsr::{op}_backward", empty, lib=_library)
    torch.library.register_autograd(f"fastsr::{op}", backward, setup_context=remember, lib=_library)


for _op in OPS:
    _register(_op)


def _operator(op: str) -> Callable[..., Tensor]:
    """The operator as a function; under a transform of torch.func the formula, since registered derivatives have no rule for it."""
    operator, plain = getattr(torch.ops.fastsr, op), _by_formula(op)
    signature = inspect.Signature(
        [
            inspect.Parameter(
                a.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=a.default_value if a.has_default_value() else inspect.Parameter.empty,
            )
            for a in operator.default._schema.arguments
        ]
    )

    @functools.wraps(_reference(op))
    def call(*args: Any, **named: Any) -> Tensor:
        if not torch._C._are_functorch_transforms_active():
            return operator(*args, **named)  # type: ignore[no-any-return]
        given = signature.bind(*args, **named)
        given.apply_defaults()
        return plain(*given.args)

    return call


_operators = {op: _operator(op) for op in OPS}


def __getattr__(name: str) -> Any:
    """The operator of that name."""
    if name in _operators:
        return _operators[name]
    raise AttributeError(f"module 'fastsr.torch_ops' has no operator {name!r}: it has {', '.join(OPS)}")
