# SPDX-License-Identifier: Apache-2.0
"""Images in and out: PIL, numpy, torch and files become a Picture and go back as what they were.

A Picture holds float32 planes in [0, 1]: 1 (gray) or 3 (RGB), and alpha apart from them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastsr.errors import InputError, LimitError, OutputError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's own limit: 89 Mpx
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
LEVELS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


@dataclass(frozen=True)
class Picture:
    """Planes in [0, 1] and how to give them back."""

    planes: np.ndarray  # [1 or 3, H, W] f32
    alpha: np.ndarray | None  # [1, H, W] f32
    restore: Callable[[Picture], Any]

    @property
    def size(self) -> tuple[int, int]:
        return self.planes.shape[1], self.planes.shape[2]


def take(img: Any) -> list[Picture]:
    """The pictures in `img`: one, or one per item of a torch batch.

    Takes PIL images; numpy [H, W] or [H, W, 1 | 2 | 3 | 4] of uint8, uint16 or float32 (2 and 4: the last is alpha);
    torch [C, H, W] or [N, C, H, W] float. Float values must lie in [0, 1]. Raises InputError.
    """
    kind = f"{type(img).__module__.split('.')[0]}.{type(img).__name__}"
    if isinstance(img, np.ndarray):
        return [_take_array(img)]
    if kind.startswith("torch."):
        return _take_tensor(img)
    if kind.startswith("PIL.") or hasattr(img, "getbands"):
        return [_take_pil(img)]
    raise InputError(f"cannot upscale a {type(img).__name__}: give a PIL image, a numpy array or a torch tensor")


def give_back(pictures: list[Picture], kind: Any) -> Any:
    """The upscaled pictures in the caller's kind, dtype and layout."""
    made = [p.restore(p) for p in pictures]
    if type(kind).__module__.split(".")[0] == "torch":
        import torch

        return torch.stack(made) if kind.ndim == 4 else made[0]
    return made[0]


def _planes(a: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """[H, W, C] in [0, 1] to planes and alpha."""
    c = np.ascontiguousarray(a.transpose(2, 0, 1), dtype=np.float32)
    return (c[:-1], c[-1:]) if c.shape[0] in (2, 4) else (c, None)


def _check(a: np.ndarray) -> None:
    """`a` is float and channels last or first; names the first bad value."""
    finite = np.isfinite(a)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"the image holds {a[at]} at index {at}: replace NaN and infinity first")
    low, high = float(a.min()), float(a.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(
            f"float images must lie in [0, 1], this one goes from {low:g} to {high:g}: divide it by its range"
        )


def _take_array(img: np.ndarray) -> Picture:
    if isinstance(img, np.ma.MaskedArray):
        raise InputError("masked arrays are not supported: fill the mask first")
    dtype = img.dtype.newbyteorder("=")
    if dtype not in LEVELS and dtype != np.float32:
        raise InputError(f"dtype {img.dtype} is not supported: use uint8, uint16 or float32")
    if img.ndim not in (2, 3) or (img.ndim == 3 and img.shape[2] not in (1, 2, 3, 4)):
        raise InputError(f"an array of shape {img.shape} is not an image: use [H, W] or [H, W, 1 to 4]")
    if 0 in img.shape:
        raise InputError(f"an image of shape {img.shape} is empty")
    a = np.asarray(img, dtype=np.float32) if dtype == np.float32 else img.astype(np.float32) / LEVELS[dtype]
    if dtype == np.float32:
        _check(a)
    planes, alpha = _planes(a[:, :, None] if a.ndim == 2 else a)

    def restore(p: Picture) -> np.ndarray:
        out = _interleave(p, dtype)
        return out[:, :, 0] if img.ndim == 2 else out

    return Picture(planes, alpha, restore)


def _interleave(p: Picture, dtype: np.dtype[Any]) -> np.ndarray:
    """[H, W, C] of `dtype`: integers rounded, everything clipped to the range."""
    c = p.planes if p.alpha is None else np.concatenate([p.planes, p.alpha])
    c = np.clip(c, 0, 1)
    if dtype in LEVELS:
        c = (c * LEVELS[dtype] + 0.5).astype(dtype)
    return np.ascontiguousarray(c.transpose(1, 2, 0), dtype=dtype)


def _take_tensor(img: Any) -> list[Picture]:
    if not img.is_floating_point():
        raise InputError(f"torch tensors must be float in [0, 1], this one is {img.dtype}")
    if img.ndim not in (3, 4) or img.shape[-3] not in (1, 2, 3, 4):
        raise InputError(
            f"a tensor of shape {tuple(img.shape)} is not an image: use [C, H, W] or [N, C, H, W] with 1 to 4 channels"
        )
    if 0 in img.shape[-3:]:
        raise InputError(f"an image of shape {tuple(img.shape)} is empty")
    batch = img.detach().float().cpu().numpy()
    pictures = []
    for item in batch if img.ndim == 4 else batch[None]:
        _check(item)
        planes, alpha = _planes(item.transpose(1, 2, 0))

        def restore(p: Picture) -> Any:
            import torch

            out = _interleave(p, np.dtype(np.float32)).transpose(2, 0, 1)
            return torch.from_numpy(np.ascontiguousarray(out)).to(img)

        pictures.append(Picture(planes, alpha, restore))
    return pictures


def _take_pil(img: Image.Image) -> Picture:
    """L and I;16 stay gray, RGB stays RGB, alpha is kept; 1, P, CMYK and others become L, RGB or RGBA first."""
    from PIL import Image

    if img.size[0] == 0 or img.size[1] == 0:
        raise InputError(f"an image of {img.size[0]}x{img.size[1]} pixels is empty")
    mode = img.mode
    if mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        picture = _take_array(np.asarray(img).astype(np.uint16))
    elif mode == "F":
        picture = _take_array(np.asarray(img, dtype=np.float32))
    elif mode in ("L", "LA", "RGB", "RGBA"):
        picture = _take_array(np.asarray(img))
    else:
        target = {"1": "L", "I": "I;16"}.get(
            mode, "RGBA" if mode in ("PA", "La", "RGBa") or "transparency" in img.info else "RGB"
        )
        return _take_pil(img.convert(target))
    inner = picture.restore
    info = {key: img.info[key] for key in ("icc_profile", "dpi") if key in img.info}

    def restore(p: Picture) -> Image.Image:
        out = Image.fromarray(np.squeeze(inner(p)) if min(p.size) > 1 else _unit(inner(p)))
        out.info.update(info)
        return out

    return replace(picture, restore=restore)


def _unit(a: np.ndarray) -> np.ndarray:
    return a[:, :, 0] if a.ndim == 3 and a.shape[2] == 1 else a


def read(path: str | Path) -> Image.Image:
    """Open an image file: by content, not by name; turned as its EXIF says; whole, or InputError.

    Raises LimitError from the header when it has more than 89 Mpx.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.size[0] * image.size[1] > MAX_PIXELS:
                    raise LimitError(
                        f"{path}: {image.size[0]}x{image.size[1]} is above the limit of {MAX_PIXELS} pixels"
                    )
                if getattr(image, "n_frames", 1) > 1:
                    raise InputError(f"{path}: holds {image.n_frames} frames: give one image a file")
                image.load()
                turned = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise LimitError(f"{path}: the image is above the limit of {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image of a known kind ({', '.join(FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, EOFError) as e:
        if isinstance(e, InputError | LimitError):
            raise
        raise InputError(f"{path}: cannot be decoded: {getattr(e, 'strerror', None) or e}") from None
    return turned


def check_target(path: str | Path) -> None:
    """Raise OutputError before the work starts when `path` cannot be what the result is written to."""
    path = Path(path)
    if path.suffix.lower() not in SAVE_FORMATS:
        raise OutputError(f"{path}: unknown ending {path.suffix!r}: use one of {', '.join(SAVE_FORMATS)}")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder")


def write(image: Image.Image, path: str | Path) -> None:
    """Save beside `path` and rename there, so that the file is whole or absent."""
    path = Path(path)
    check_target(path)
    kind = SAVE_FORMATS[path.suffix.lower()]
    if kind in ("JPEG", "BMP", "PPM") and image.mode in ("RGBA", "LA"):
        raise OutputError(f"{path}: {kind} has no alpha channel: use .png, .webp or .tif")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            image.save(f, format=kind, icc_profile=image.info.get("icc_profile"), **SAVE_OPTIONS.get(kind, {}))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as e:
        raise OutputError(f"{path}: cannot be written: {getattr(e, 'strerror', None) or e}") from None
    finally:
        temporary.unlink(missing_ok=True)
