"""Bytes of an image file to pixels, the same way for training files and for requests.

`decode` takes PNG, JPEG, WebP, GIF, BMP, TIFF and PNM to uint8 (height, width, channels): 1 channel for grey, else 3. What is there
beyond that follows fixed rules: transparency lies over white, 16-bit values keep their upper half, CMYK and palettes become colours, of
an animation the first frame counts, and a photograph stands as its EXIF data says. `fitted` brings pixels to a column's stored size.
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.data.base import Column
from kubeautoml_trainer.data.values import shown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What Pillow may read; its other readers are older, rarer, and not worth the risk in a server."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
WANTED = "PNG, JPEG, WebP, GIF, BMP or TIFF"

MAX_PIXELS = 50_000_000
"""Of an image: 150 MB of colours. JPEG files are read at a half, a quarter or an eighth of their size until they fit."""
MAX_TOGETHER = 1_000_000_000
"""Pixels of the images of one request: small files can hold large images, which take seconds each. 80 photographs of 12 million."""
LARGE_PIXELS = 4_000_000
"""Images of more are decoded one at a time, so that many threads need no more memory than one."""

_one_large = threading.Lock()


class ImageError(ValueError):
    """The bytes are no image that can be used; the message says why, without naming the image."""


@runtime_checkable
class Pixels(Protocol):
    """An image that is decoded already, as `data.image_cache.StoredImage`."""

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (height, width, channels)."""
        ...


def decode(data: bytes, side: int | None = None) -> np.ndarray:
    """The pixels of an image file, uint8 (height, width, channels) with 1 or 3 channels.

    Args:
        side: longer side to which they will be brought: a JPEG file that is far larger is read at a half, a quarter or an eighth of its
            size, still twice as large as that, which takes a tenth of the time for a photograph.

    Raises:
        ImageError: empty, truncated, too large, or not an image.
    """
    with _opened(data, side) as image:
        width, height = image.size
        try:
            with _one_large if width * height > LARGE_PIXELS else nullcontext():
                image.load()
                return _as_array(_in_eight_bits(_upright(image)))
        except ImageError:
            raise
        except Exception as error:  # Pillow's readers raise whatever their formats bring up
            raise ImageError(f"is damaged or cut off ({_said(error)})") from error


def size_of(data: bytes) -> tuple[int, int, int]:
    """Height, width and channels that `decode` will give, from the head of the file.

    Raises:
        ImageError: as `decode`, as far as the head tells.
    """
    with _opened(data) as image:
        width, height = image.size
        return (width, height, _channels(image)) if _turn(image) in (5, 6, 7, 8) else (height, width, _channels(image))


def fitted(pixels: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Pixels in another size and number of channels: uint8 (height, width, channels), C-contiguous.

    Stretched to the new shape where the proportions differ, smoothed where it is smaller; grey becomes colour by repeating it, colour
    grey by its luminance (ITU-R 601).

    >>> fitted(np.zeros((4, 4, 1), dtype=np.uint8), 2, 2, 3).shape
    (2, 2, 3)
    """
    if pixels.shape == (height, width, channels):
        return np.ascontiguousarray(pixels)
    pillow = _pillow()
    image = pillow.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if image.mode != ("L" if channels == 1 else "RGB"):
        image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), pillow.Image.Resampling.BILINEAR)
    return _as_array(image)


def from_array(values: Any) -> np.ndarray:
    """Pixels as uint8 (height, width, channels) from uint8 (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); the fourth is opacity, over white.

    Raises:
        ImageError: another shape or type.
    """
    found = np.asarray(values)
    if found.dtype != np.uint8:
        raise ImageError(f"must hold whole numbers from 0 to 255 (uint8), got {found.dtype}")
    if found.ndim == 2:
        found = found[:, :, None]
    if found.ndim != 3 or found.shape[2] not in (1, 3, 4) or not found.size:
        raise ImageError(f"must have shape (height, width), or (height, width, 1, 3 or 4), got {found.shape}")
    if found.shape[0] * found.shape[1] > MAX_PIXELS:
        raise ImageError(f"must have at most {MAX_PIXELS:,} pixels, got {found.shape[1]:,} x {found.shape[0]:,}")
    if found.shape[2] == 4:
        return _as_array(_over_white(_pillow().Image.fromarray(np.ascontiguousarray(found))))
    return found


def pixels_of(value: Any, side: int | None = None) -> np.ndarray | None:
    """The pixels of one raw value; None where it is missing. side: as in `decode`.

    A raw value is the bytes of an image file, their base64 (plain, or a data: URL), an array, Pillow's image, {"bytes": ...} as Parquet
    files of images hold it, or an image that is decoded already.

    Raises:
        ImageError: it is none of these, or no image that can be used.
    """
    if isinstance(value, Pixels):
        return value.pixels
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return decode(bytes(value), side)
    if isinstance(value, str):
        return decode(_from_base64(value), side)
    if isinstance(value, np.ndarray):
        return from_array(value)
    if type(value).__module__.startswith("PIL."):
        return _as_array(_in_eight_bits(value))
    raise ImageError(f"must be the base64 of a {WANTED} file")


def typed_images(raw: pd.Series, column: Column) -> np.ndarray:
    """One column of raw values as `data.base.Rows.frame` holds it: object (n,) of uint8 arrays of the stored size, None for missing.

    Raises:
        PredictionError: a value is no image; names column, row and rule.
    """
    assert column.height and column.width and column.channels
    out = np.empty(len(raw), dtype=object)
    decoded = 0
    for row, value in enumerate(raw):
        try:
            pixels = pixels_of(value, max(column.height, column.width))
            decoded += 0 if pixels is None or isinstance(value, Pixels) else pixels.shape[0] * pixels.shape[1]
            if decoded > MAX_TOGETHER:
                raise ImageError(
                    f"is more than {MAX_TOGETHER:,} pixels together with those before it; send fewer at once"
                )
        except ImageError as error:
            raise PredictionError(
                f"column '{column.name}' must be an image ({WANTED}, as base64), the one in row {row} {error}"
                + (f": {shown(value[:40])}" if isinstance(value, str) else "")
            ) from error
        out[row] = None if pixels is None else fitted(pixels, column.height, column.width, column.channels)
    return out


def is_image_value(value: Any) -> bool:
    """Whether a raw value can only be an image: bytes, an array with two axes or more, {"bytes": ...}, or one decoded already."""
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    return isinstance(value, bytes | Pixels) or (isinstance(value, np.ndarray) and value.ndim >= 2)


def to_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 (height, width, 1 or 3)."""
    image = _pillow().Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def data_url(pixels: np.ndarray) -> str:
    """A PNG of the pixels as a data: URL."""
    return "data:image/png;base64," + base64.b64encode(to_png(pixels)).decode("ascii")


_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
"""What Pillow must do to a photograph that lies so (EXIF 2.3, 4.6.4 A)."""


@cache
def _pillow() -> Any:
    """Pillow, without its own bound on pixels: ours also knows that large JPEG files can be read smaller."""
    import PIL
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, which nobody looks at
    return PIL


def _opened(data: bytes, side: int | None = None) -> AbstractContextManager[Any]:
    """The image, of which only the head is read. side: as in `decode`.

    Raises:
        ImageError: there is none, or it has too many pixels.
    """
    if not data:
        raise ImageError("is empty (0 bytes)")
    pillow = _pillow()
    try:
        image = pillow.Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise ImageError(f"is not a {WANTED} file, or a damaged one ({_said(error)})") from error
    width, height = image.size
    if image.format == "JPEG":
        fits = next((s for s in (1, 2, 4, 8) if (width // s) * (height // s) <= MAX_PIXELS), 1)
        ample = next((s for s in (8, 4, 2) if side and min(width, height) // s >= 2 * side), 1)
        step = max(fits, ample)
        if step > 1:
            image.draft(None, (width // step, height // step))
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"must have at most {MAX_PIXELS:,} pixels, got {width:,} x {height:,}; make it smaller")
    return image  # type: ignore[no-any-return]


def _turn(image: Any) -> int:
    """How a photograph lies, as EXIF numbers it: 1 stands upright, and so does one whose EXIF data is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # as many kinds as there are cameras
        return 1


def _upright(image: Any) -> Any:
    method = _TURNS.get(_turn(image))
    return image if method is None else image.transpose(_pillow().Image.Transpose[method])


def _said(error: Exception) -> str:
    words = str(error).replace("\n", " ")
    if "cannot identify image file" in words:
        return "unknown format"
    return (words or type(error).__name__)[:120]


def _channels(image: Any) -> int:
    if image.mode == "P" and "transparency" not in image.info:
        return 1 if _is_grey(image) else 3
    return 1 if image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F") else 3


def _is_grey(image: Any) -> bool:
    """Whether a palette holds nothing but greys."""
    colours = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _in_eight_bits(image: Any) -> Any:
    """The image in mode L or RGB."""
    if image.mode in ("L", "RGB"):
        # a colour may stand for transparent pixels
        return _over_white(image.convert("RGBA")) if "transparency" in image.info else image
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if image.mode == "F":
        raise ImageError("must have 8 or 16 bits a pixel, has floating-point numbers")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        grey = image.mode in ("LA", "La")
        over = _over_white(image.convert("RGBA"))
        return over.convert("L") if grey else over
    return image.convert("L" if _channels(image) == 1 else "RGB")


def _from_sixteen_bits(image: Any) -> Any:
    """The upper eight of sixteen bits."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ImageError(f"must have 8 or 16 bits a pixel, has values from {values.min()} to {values.max()}")
    return _pillow().Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _over_white(image: Any) -> Any:
    white = _pillow().Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")


def _as_array(image: Any) -> np.ndarray:
    values = np.asarray(image)
    return np.ascontiguousarray(values[:, :, None] if values.ndim == 2 else values)


def _from_base64(text: str) -> bytes:
    """The bytes in base64 or in a data: URL.

    Raises:
        ImageError: it is neither.
    """
    body = text.strip()
    if body[:5].lower() == "data:":
        head, comma, body = body.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ImageError("is a data: URL, but not of the form data:image/png;base64,...")
    try:
        return base64.b64decode("".join(body.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        hint = "; of a file give the bytes" if text.lower().endswith(SUFFIXES) else ""
        raise ImageError(f"is no base64{hint}") from error
