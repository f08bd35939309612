# SPDX-License-Identifier: Apache-2.0
"""A network of layers as an ONNX file, of fixed shapes (as the benchmark deploys it) or for images of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastsr.errors import DeviceError
from fastsr.export.layers import Layer
from fastsr.plan import OUTPUT

OPSET, IR = 17, 9
FLOOR: dict[str, Any] = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
CUBIC: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.5, "coordinate_transformation_mode": "half_pixel"}
CURVES = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
END = np.iinfo(np.int64).max


class Writer:
    """Nodes and constants of the file in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._shared: dict[int, str] = {}  # the weights of a recursion are one constant
        self._kept: list[np.ndarray] = []  # arrays made here: their ids must stay theirs
        self._count = 0

    def constant(self, value: np.ndarray, role: str = "k") -> str:
        from onnx import numpy_helper

        if id(value) not in self._shared:
            self._kept.append(value)
            name = f"{role}{len(self._shared)}"
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            self._shared[id(value)] = name
        return self._shared[id(value)]

    def whole(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def node(self, kind: str, inputs: Sequence[str], made: str = "", **params: Any) -> str:
        """The name of the output, `made` where it has one."""
        from onnx import helper

        self._count += 1
        made = made or f"inner{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [made], **params))
        return made

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1, made: str = "") -> str:
        return self.node("Slice", [x, *(self.whole(n) for n in (start, end, axis, step))], made)

    def mirrored(self, x: str, r: int, size: tuple[int, int] | None) -> str:
        """`x` with a symmetric border; without a size only for images of at least `r` pixels a side."""
        for axis in (2, 3):
            if size:
                at = np.pad(np.arange(size[axis - 2]), r, mode="symmetric").astype(np.int64)
                x = self.node("Gather", [x, self.constant(at)], axis=axis)
            else:
                before, after = self.slice(x, axis, r - 1, -END, -1), self.slice(x, axis, -1, -r - 1, -1)
                x = self.node("Concat", [before, x, after], axis=axis)
        return x

    def edged(self, x: str, r: int) -> str:
        return self.node("Pad", [x, self.whole(0, 0, r, r, 0, 0, r, r)], mode="edge")

    def bicubic(self, x: str, scale: int, made: str) -> None:
        """MATLAB's: Resize would repeat the edge where that mirrors, so two pixels are there and cut off again."""
        factors = self.constant(np.array([1, 1, scale, scale], np.float32))
        x = self.node("Resize", [self.mirrored(x, 2, None), "", factors], **CUBIC)
        x = self.slice(x, 2, 2 * scale, -2 * scale)
        self.slice(x, 3, 2 * scale, -2 * scale, made=made)

    def layer(self, layer: Layer, size: tuple[int, int] | None) -> None:
        """Add a layer whose first input has this size."""
        x, params, arrays = layer.inputs[0], layer.params, layer.arrays
        factor = int(params.get("scale", 1))
        tensors = [self.constant(arrays[role], role) for role in ("w", "b") if role in arrays]
        if layer.kind == "conv":
            r, border, pads = arrays["w"].shape[-1] // 2, params["border"], [0, 0, 0, 0]
            if border == "zero":
                pads = [r, r, r, r]
            elif r:
                x = self.edged(x, r) if border == "replicate" else self.mirrored(x, r, size)
            self.node("Conv", [x, *tensors], layer.out, pads=pads)
        elif layer.kind == "deconv":
            self.node("ConvTranspose", [x, *tensors], layer.out, strides=[factor, factor])
        elif layer.kind == "activate":
            self._activate(layer, str(params["activation"]))
        elif layer.kind in ("add", "multiply"):
            self.node({"add": "Add", "multiply": "Mul"}[layer.kind], layer.inputs, layer.out)
        elif layer.kind == "less":
            self.node("Sub", [x, self.constant(np.array(params["value"], np.float32))], layer.out)
        elif layer.kind == "join":
            self.node("Concat", layer.inputs, layer.out, axis=1)
        elif layer.kind == "affine":
            scaled = self.node("Mul", [x, self.constant(arrays["scale"][:, None, None])])
            self.node("Add", [scaled, self.constant(arrays["shift"][:, None, None])], layer.out)
        elif layer.kind == "nearest":
            factors = self.constant(np.array([1, 1, factor, factor], np.float32))
            self.node("Resize", [x, "", factors], layer.out, mode="nearest", **FLOOR)
        elif layer.kind == "bicubic":
            self.bicubic(x, factor, layer.out)
        elif layer.kind == "shuffle":
            self.node("DepthToSpace", [x], layer.out, blocksize=factor, mode="CRD")
        else:
            raise DeviceError(f"ONNX has no layer {layer.kind}")

    def _activate(self, layer: Layer, kind: str) -> None:
        x = layer.inputs[0]
        if "slopes" in layer.arrays:
            self.node("PRelu", [x, self.constant(layer.arrays["slopes"][:, None, None])], layer.out)
        elif kind == "silu":
            self.node("Mul", [x, self.node("Sigmoid", [x])], layer.out)
        elif kind == "leaky_relu":
            self.node("LeakyRelu", [x], layer.out, alpha=float(layer.params["slope"]))
        else:
            self.node(CURVES[kind], [x], layer.out)


def onnx_model(
    network: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],  # of the inputs [C, H, W]; [C]: of any size, and of any batch
    out: tuple[int, ...],
    about: Mapping[str, str] | None = None,
) -> bytes:
    """The network as an ONNX file: Conv, ConvTranspose, activations, Add, Mul, Concat, Resize, DepthToSpace, and
    Pad, Gather or Slice for borders. Raises DeviceError for a layer that it lacks."""
    from onnx import TensorProto, helper

    writer = Writer()
    sizes = {name: (shape[1], shape[2]) if len(shape) == 3 else None for name, shape in shapes.items()}
    for layer in network:
        factor, size = int(layer.params.get("scale", 1)), sizes[layer.inputs[0]]
        sizes[layer.out] = size and (size[0] * factor, size[1] * factor)
        writer.layer(layer, size)

    def value(name: str, shape: tuple[int, ...], of: str) -> Any:
        dims: list[int | str] = [1, *shape] if len(shape) == 3 else ["n", *shape, f"{of}height", f"{of}width"]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    inputs = [value(name, shape, "") for name, shape in shapes.items()]
    graph = helper.make_graph(writer.nodes, "plan", inputs, [value(OUTPUT, out, "out_")], writer.constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="fastsr"
    )
    if about:
        helper.set_model_props(model, dict(about))
    found: bytes = model.SerializeToString()
    return found
