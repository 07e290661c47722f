"""What a picture is: the first frame, upright, RGB, 8 bits; or the reason why there is none."""

from __future__ import annotations

import io
import re
import struct
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from lmmsteer.errors import PictureError

MAX_PIXELS = 64_000_000
# Processors scale the shorter edge to hundreds of pixels; a thin strip would fill the memory.
MAX_RATIO = 200
MAX_REASON = 300
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
ADDRESS = re.compile("0x[0-9a-fA-F]+")
BAND = 1 << 20  # Pixels of grey that are scaled at a time.
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file's bytes: first frame, EXIF orientation applied, RGB, 8 bits a channel.

    16-bit grey is scaled to 8, transparency is laid on white, palettes and CMYK become RGB. Reasons
    are the same for the same bytes and the same Pillow.

    Raises: PictureError `picture_too_large` by the header alone, before pixels are read (too many
    of them, or a strip); `picture_broken` for bytes that are no picture or that cannot be read to
    their end. MemoryError.
    """
    try:
        image = _open(data, max_pixels)
        image.load()
        return _rgb(_upright(image))
    except (PictureError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many(max_pixels) from error
    except UnidentifiedImageError as error:
        known = ", ".join(_formats())
        raise PictureError("picture_broken", f"no picture of a format read: {known}") from error
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged bytes.
        reason = one_line(f"{type(error).__name__}: {error}")
        raise PictureError("picture_broken", reason) from error


def one_line(text: str) -> str:
    """An error's text without what differs from run to run, fit for a table's cell."""
    text = ADDRESS.sub("0x", " ".join(text.split()))
    return "".join(c if c.isprintable() else "\ufffd" for c in text)[:MAX_REASON]


def _too_many(max_pixels: int) -> PictureError:
    return PictureError("picture_too_large", f"its header says more than {max_pixels} pixels")


@cache
def _formats() -> tuple[str, ...]:
    """What is opened. Others bring interpreters (EPS runs Ghostscript), or nobody's photographs."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_formats())
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many(max_pixels)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise PictureError(
            "picture_too_large",
            f"{width} x {height} pixels, one edge over {MAX_RATIO} times the other",
        )
    # Only verify() notices a PNG whose last chunks are missing or damaged; it spoils the image.
    image.verify()
    return Image.open(io.BytesIO(data), formats=_formats())


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, UserWarning):
        return image  # Unreadable EXIF says nothing about the pixels.
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (Pillow's modes I and I;16) over 257; floating point is taken as [0, 1]."""
    grey = np.asarray(image)
    scaled = np.empty(grey.shape, np.uint8)
    rows = max(1, BAND // grey.shape[1])
    for top in range(0, len(grey), rows):
        band = grey[top : top + rows].astype(np.float64)
        share = np.nan_to_num(band if image.mode == "F" else band / 65535)
        scaled[top : top + rows] = np.rint(np.clip(share, 0, 1) * 255)
    return Image.fromarray(scaled).convert("RGB")
