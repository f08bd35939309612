from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

def ops() -> list[str]: ...
def isas() -> list[str]: ...
def isa() -> str: ...
def default_threads() -> int: ...
def peak_gflops(threads: int = 0, seconds: float = 0.05) -> float: ...
def resize_bicubic(
    x: np.ndarray,  # [C, h, w] f32
    out_h: int,
    out_w: int,
    scale: float = 0.0,
    threads: int = 0,
) -> np.ndarray: ...  # [C, out_h, out_w] f32
def tile_grid(h: int, w: int, tile_h: int, tile_w: int) -> list[tuple[int, int, int, int]]: ...
def ycbcr() -> tuple[list[list[float]], list[list[float]]]:
    """[3, 4] from RGB to YCbCr (BT.601, studio swing, as MATLAB's rgb2ycbcr) and back; what is added comes last."""

LOWEST: float
HIGHEST: float
"""where floats of images may lie: resampling leaves [0, 1] a little"""

class Pixels:
    """An image in the memory of arrays, whose dtypes are uint8, uint16 or float32 of any byte order and strides."""

    def __init__(
        self,
        array: np.ndarray,  # [H, W], [H, W, 1 to 4], or [1 to 4, H, W]
        channels_first: bool = False,
        order: str = "",  # of the channels in memory: "BGR", "ARGB"; default "Y", "YA", "RGB", "RGBA"
    ) -> None: ...
    @staticmethod
    def yuv(
        kind: str,  # "i420", "nv12" or "p010"
        planes: Sequence[np.ndarray],  # [H, W] and two of [h, w], or one of [h, w, 2]; rows dense
        matrix: str = "bt709",  # "bt601", "bt709", "bt2020"
        full: bool = False,
        siting: str = "left",  # or "center"
    ) -> Pixels: ...
    def check(self, item: int | None = None, threads: int = 0) -> None:
        """Raise InputError, which names the first bad value, unless floats lie in [LOWEST, HIGHEST]; item: of a batch."""

    def visible(self, reach: int) -> Pixels:
        """These, or a packed copy where alpha hides colours: hidden pixels up to `reach` (a network's radius) and PIXEL_REACH
        from a visible one have the mean of their neighbours nearer to it, so that nothing hidden bleeds into what is seen."""

    @property
    def array(self) -> np.ndarray: ...  # the first

def keep_hidden(given: Pixels, out: Pixels) -> None:
    """Where `out` is transparent, it gets the colours of `given`, each pixel repeated."""

PIXEL_REACH: int
"""pixels beyond a network's radius that the bicubic of chroma and alpha reaches"""

def read_pixels(
    pixels: Pixels,
    domain: str,  # "y" or "rgb"
    isa: str = "",
    threads: int = 0,
) -> np.ndarray: ...  # [1 or 3, H, W] f32: what a network reads
def write_pixels(
    planes: np.ndarray,  # [1 or 3, H * scale, W * scale] f32: what it gives
    given: Pixels,
    out: Pixels,
    domain: str,
    scale: int,
    tile: tuple[int, int] = (16, 0),  # of the output at a time; 0: whole rows
    isa: str = "",
    threads: int = 0,
) -> bool:
    """Whether the planes were finite; if not, `out` holds anything."""

MODEL_LIMITS: dict[str, int]  # core/limits.h: file_bytes, header_bytes, weight_bytes, tensors, steps

# A model file: the plan as of Plan.to_dict, its weights (read-only f32), its metadata. Errors are ModelError, one line.
def read_model(path: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str]]: ...
def parse_model(data: bytes, name: str = "") -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str]]: ...
def read_metadata(path: bytes) -> dict[str, str]: ...
def parse_plan(text: bytes) -> dict[str, Any]: ...

class Session:
    def __init__(
        self,
        plan: dict[str, Any],  # of a Plan; with `channels` of a Step, which is run alone
        weights: dict[str, np.ndarray],
        threads: int = 0,
        tile: int = 0,
        memory_limit: int = 0,
        isa: str = "",
        poison: bool = False,
        shuffle: int = 0,
        bf16: bool = False,
        algorithm: str = "",
        channels: Sequence[int] | None = None,  # of each input of the step
    ) -> None: ...
    def run(
        self,
        x: np.ndarray,  # [C, h, w] f32
        others: Sequence[np.ndarray] = (),  # a step's inputs beside the first, of the output's size
        out: np.ndarray | None = None,  # dense f32; written and returned
        progress: Callable[[float], object] | None = None,  # given how much is done; what it raises stops the run
    ) -> np.ndarray: ...
    def replace(self, weights: Mapping[str, np.ndarray]) -> None: ...  # others of the same shapes
    def upscale(
        self,
        given: Pixels,
        out: Pixels,  # `scale` times as large, of the same dtype and channels
        progress: Callable[[float], object] | None = None,
    ) -> bool:
        """Whether what the network gave was finite; if not, `out` holds anything. Values are not checked: Pixels.check."""

    def explain(self, h: int, w: int) -> list[dict[str, Any]]: ...
    def flops(self, h: int, w: int) -> int: ...
    def memory(self, h: int, w: int) -> int: ...
    def tile(self, h: int, w: int) -> tuple[int, int]: ...
    @property
    def radius(self) -> int: ...
    @property
    def scale(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...

class Graph:
    """A plan, or one step, checked: what is known without kernels and without weights but for their shapes."""

    def __init__(
        self,
        plan: Mapping[str, Any],
        shapes: Mapping[str, Sequence[int]],  # of every tensor
        channels: Sequence[int] | None = None,  # of each input, where `plan` is one step
    ) -> None: ...
    def facts(self, h: int, w: int) -> list[dict[str, Any]]: ...  # per step: op, out, shape, radius, flops
    def steps(self) -> list[dict[str, Any]]: ...  # composed ops expanded; "step": of the plan
    def flops(self, h: int, w: int) -> int: ...
    def out_shape(self, h: int, w: int) -> tuple[int, int, int]: ...
    @property
    def radius(self) -> int: ...
    @property
    def scale(self) -> int: ...
