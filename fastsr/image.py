# SPDX-License-Identifier: Apache-2.0
"""Images in and out: PIL, numpy and files become numbers in memory and go back as what they were. No pixel is computed here."""

from __future__ import annotations

import contextlib
import os
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fastsr import _core
from fastsr.errors import FastsrError, InputError, LimitError, OutputError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's own limit: 89 Mpx
MAX_OUTPUT = 1 << 30
"""pixels of the largest output: above it, sizes in bytes leave what most hosts can hold"""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP")
SAVE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".ppm": "PPM",
}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1},  # level 6 takes longer than most networks here
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "quality": 30, "method": 0},
}
SAVE_MODES = {
    "JPEG": ("L", "RGB"),
    "WEBP": ("L", "LA", "RGB", "RGBA"),
    "BMP": ("L", "RGB"),
    "PPM": ("L", "RGB", "I;16"),
    "PNG": ("L", "LA", "RGB", "RGBA", "I;16"),
    "TIFF": ("L", "LA", "RGB", "RGBA", "I;16", "F"),
}
"""what a format can hold of the modes that come out of an upscale"""
SAVE_SIDE = {"JPEG": 65500, "WEBP": 16383}
KEPT_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I", "F")
BECOMES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
"""PIL modes that are converted first; any other becomes RGB, or RGBA when it has a transparent colour"""
DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32), np.dtype(np.float64))
"""of arrays; float64 is worked on as float32"""
KEPT_INFO = ("icc_profile", "exif", "dpi", "xmp", "duration", "loop")
"""what a PIL image says beside its pixels, and its result as well"""


@dataclass(frozen=True)
class Pixels:
    """An image as its owner's numbers, of which dtype and shape are checked and the values are not."""

    array: np.ndarray  # [H, W] or [H, W, 1 to 4], uint8, uint16 or float32 in either byte order, any strides
    restore: Callable[[np.ndarray], Any]
    """[H, W] or [H, W, C] of the dtype in this machine's byte order -> the owner's kind"""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype.newbyteorder("=")


def pixels(img: Any) -> Pixels:
    """The numbers of a PIL image or of a numpy array. Raises InputError for what is no image."""
    if isinstance(img, np.ndarray):
        return _array_pixels(img)
    if _is_a(img, "PIL", "Image"):
        return _pil_pixels(img)
    hint = (
        "open it with PIL first" if isinstance(img, str | Path) else "give a PIL image, a numpy array or a torch tensor"
    )
    raise InputError(f"cannot upscale a {type(img).__name__}: {hint}")


def is_tensor(img: Any) -> bool:
    """Whether `img` is a torch tensor; torch is not imported."""
    return _is_a(img, "torch", "Tensor")


def _is_a(img: Any, package: str, name: str) -> bool:
    """Whether `img` is of a class of that package or derives from it; the package itself is not imported."""
    return any(c.__name__ == name and c.__module__.split(".")[0] == package for c in type(img).__mro__)


def check_output(h: int, w: int, scale: int) -> None:
    """Raise LimitError when an image of h x w pixels becomes too large."""
    if h * w * scale**2 > MAX_OUTPUT:
        raise LimitError(
            f"{w}x{h} pixels times {scale} on each side is above the limit of {MAX_OUTPUT} output pixels: cut the image"
        )


def _array_pixels(img: np.ndarray) -> Pixels:
    if isinstance(img, np.ma.MaskedArray):
        raise InputError("masked arrays are not supported: fill the mask first")
    dtype = img.dtype.newbyteorder("=")
    if dtype not in DTYPES:
        raise InputError(f"dtype {img.dtype} is not supported: use uint8, uint16, float32 or float64")
    if img.ndim not in (2, 3) or (img.ndim == 3 and img.shape[2] not in (1, 2, 3, 4)):
        raise InputError(f"an array of shape {img.shape} is not an image: use [H, W] or [H, W, 1 to 4]")
    if 0 in img.shape:
        raise InputError(f"an image of shape {img.shape} is empty")
    order, flat = img.dtype, img.ndim == 2  # big-endian in, big-endian out
    taken = np.asarray(img, np.float32) if dtype == np.float64 else np.asarray(img)
    return Pixels(taken, lambda out: (out.reshape(out.shape[:2]) if flat else out).astype(order, copy=False))


def check_values(a: np.ndarray, channels_first: bool = False) -> None:
    """Raise InputError, which names the first bad value, unless floats lie in [0, 1] or little beside.

    a: [H, W], [H, W, C], or with channels_first [C, H, W] or [N, C, H, W].
    """
    for item in range(len(a)) if a.ndim == 4 else (None,):
        _core.Pixels(a if item is None else a[item], channels_first).check(item)


def check_tensor(img: Any) -> None:
    """Raise InputError unless `img` has the dtype and shape of an image or of a batch; its values are not read."""
    dtype = str(img.dtype).removeprefix("torch.")
    if img.is_quantized:
        raise InputError(f"quantised tensors ({dtype}) are not supported: give img.dequantize()")
    if str(img.layout) != "torch.strided":
        raise InputError(f"tensors of layout {img.layout} are not supported: give img.to_dense()")
    if img.is_meta:
        raise InputError("a tensor of device meta has no values: give one that has")
    if not img.is_floating_point() and dtype not in ("uint8", "uint16"):
        raise InputError(f"torch tensors must be uint8, uint16 or float in [0, 1], this one is {dtype}")
    if img.ndim not in (3, 4) or img.shape[-3] not in (1, 2, 3, 4):
        raise InputError(
            f"a tensor of shape {tuple(img.shape)} is not an image: use [C, H, W] or [N, C, H, W] with 1 to 4 channels"
        )
    if 0 in img.shape[-3:]:
        raise InputError(f"an image of shape {tuple(img.shape)} is empty")


def _pil_pixels(img: Image.Image) -> Pixels:
    """Modes of KEPT_MODES stay, others are converted by BECOMES; a transparent colour becomes alpha."""
    from PIL import Image

    if 0 in img.size:
        raise InputError(f"an image of {img.size[0]}x{img.size[1]} pixels is empty")
    info: dict[Any, Any] = {key: img.info[key] for key in KEPT_INFO if key in img.info}
    try:
        img.load()
        if img.mode == "I":
            inner = _int_pixels(np.asarray(img))
        else:
            inner = _array_pixels(array_of(img))
            if target_mode(img) != img.mode and img.mode not in ("1", "L", "P", "PA", "RGB"):
                info.pop("icc_profile", None)
    except FastsrError:
        raise
    except Exception as e:  # whatever Pillow's decoders raise on a broken file
        raise InputError(f"the {img.mode} image cannot be decoded: {e}") from None

    def restore(array: np.ndarray) -> Image.Image:
        out = Image.fromarray(inner.restore(array))
        out.info.update(info)
        return out

    return replace(inner, restore=restore)


def array_of(img: Any) -> np.ndarray:  # [H, W] or [H, W, 2 to 4]
    """A PIL image's numbers: modes of KEPT_MODES stay, others are converted, a transparent colour becomes alpha."""
    if img.mode.startswith("I;16"):
        return np.asarray(img).astype(np.uint16)
    if img.mode == "I":
        array = np.asarray(img)
        return array.astype(np.uint16) if array.min() >= 0 and array.max() <= 65535 else array
    if img.mode == "F":
        return np.asarray(img, dtype=np.float32)
    mode = target_mode(img)
    if mode != img.mode:
        img = _from_cmyk(img) if img.mode == "CMYK" else img.convert(mode)
    return np.asarray(img)


def target_mode(img: Image.Image) -> str:
    """The mode in which `img` comes back from an upscale."""
    mode = BECOMES.get(img.mode, img.mode if img.mode in KEPT_MODES else "RGB")
    if img.mode.startswith("I;16"):
        return "I;16"
    return {"L": "LA", "RGB": "RGBA"}.get(mode, mode) if "transparency" in img.info else mode


def _int_pixels(a: np.ndarray) -> Pixels:
    """Pillow's "I": 32 bit that hold 16."""
    low, high = int(a.min()), int(a.max())
    if low < 0 or high > 65535:
        raise InputError(f"images of mode I must lie in [0, 65535], this one goes from {low} to {high}")
    inner = _array_pixels(a.astype(np.uint16))
    return replace(inner, restore=lambda out: inner.restore(out).astype(np.int32))


def _from_cmyk(img: Image.Image) -> Image.Image:
    """CMYK to sRGB by its profile where it has one that can be read, else by Pillow's rule."""
    from io import BytesIO

    from PIL import Image

    try:
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(BytesIO(img.info["icc_profile"]))
        made = ImageCms.profileToProfile(img, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if isinstance(made, Image.Image):
            return made
    except Exception:  # no profile, a broken one, or a Pillow without littlecms
        pass
    return img.convert("RGB")


def read(path: str | Path) -> Image.Image:
    """Open an image file: by content, not by name; turned as its EXIF says; whole, or InputError.

    Raises LimitError from the header when it has more than 89 Mpx. Of a JPEG with several pictures (MPO: a phone's
    photo and its preview or gain map) the first is taken; other files with several frames are refused.

    >>> read("photo.jpg").size
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.format == "PPM":
                    with open(path, "rb") as f:
                        check_text_end(f, path)
                return _decode(path, image)
    except (FastsrError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise LimitError(f"{path}: the image is above the limit of {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image of a known kind ({', '.join(FORMATS)}), or cut short") from None
    except Exception as e:  # Pillow's decoders raise nearly anything on a broken file
        raise InputError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None


def quiet_decoders() -> None:
    """Pillow and its libtiff say what is wrong with a file by lines of their own on stderr; ours is enough.

    For the whole process, so only a program of our own does this, the command.
    """
    import ctypes
    import logging

    from PIL import _imaging

    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with contextlib.suppress(OSError, AttributeError):  # a Pillow without libtiff, or with its names hidden
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def check_text_end(file: BinaryIO, name: str | Path) -> None:
    """A text PGM or PPM ends with white space; one that ends with a digit may have been cut inside its last number."""
    file.seek(0)
    if file.read(2) in (b"P2", b"P3") and file.seek(-1, os.SEEK_END) and file.read(1).isdigit():
        raise InputError(f"{name}: cut short: the last number of a text PGM or PPM has no white space after it")
    file.seek(0)


def _decode(path: Path, image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    w, h = image.size
    if w * h > MAX_PIXELS:
        raise LimitError(f"{path}: {w}x{h} is above the limit of {MAX_PIXELS} pixels")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{path}: holds {frames} frames: give one image a file")
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode == "I" and int(np.asarray(turned).max()) <= 65535:  # how Pillow opens 16-bit PGM
        turned = turned.convert("I;16")
    return turned


def check_target(path: str | Path) -> None:
    """Raise OutputError before the work starts when `path` cannot be what the result is written to."""
    path = Path(path)
    if path.suffix.lower() not in SAVE_FORMATS:
        raise OutputError(f"{path}: unknown ending {path.suffix!r}: use one of {', '.join(SAVE_FORMATS)}")
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: no permission to write in {path.parent}")


def check_fits(path: str | Path, img: Image.Image, scale: int) -> None:
    """Raise OutputError before the work starts when the upscaled `img` has a mode or size that the format cannot hold."""
    path = Path(path)
    _check_mode(path, target_mode(img))
    kind = SAVE_FORMATS[path.suffix.lower()]
    side = max(img.size) * scale
    if side > SAVE_SIDE.get(kind, side):
        raise OutputError(f"{path}: {kind} holds sides up to {SAVE_SIDE[kind]} pixels, not {side}: use .png or .tif")


def _check_mode(path: Path, mode: str) -> None:
    kind = SAVE_FORMATS[path.suffix.lower()]
    if mode in SAVE_MODES[kind]:
        return
    fitting = [ending for ending, other in SAVE_FORMATS.items() if mode in SAVE_MODES[other]]
    what = {"I;16": "16-bit", "I": "32-bit", "F": "float"}.get(mode, "transparent")
    raise OutputError(
        f"{path}: {kind} cannot hold this {what} image ({mode}): use {' or '.join(fitting) or 'mode I;16'}"
    )


def write(image: Image.Image, path: str | Path) -> None:
    """Save beside `path` and rename there, so that the file is whole or absent. The colour profile goes along, EXIF not.

    Raises OutputError.

    >>> write(out, "out.png")
    """
    path = Path(path)
    check_target(path)
    _check_mode(path, image.mode)
    kind = SAVE_FORMATS[path.suffix.lower()]
    temporary = path.parent / f".fastsr-{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as f:
            image.save(f, format=kind, icc_profile=image.info.get("icc_profile"), **SAVE_OPTIONS.get(kind, {}))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as e:
        raise OutputError(f"{path}: cannot be written: {getattr(e, 'strerror', None) or e}") from None
    finally:
        temporary.unlink(missing_ok=True)
