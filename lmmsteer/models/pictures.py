"""What a picture is: the first frame, upright, RGB, 8 bits; or the reason why there is none."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from lmmsteer.errors import PictureError

MAX_PIXELS = 64_000_000
# Processors scale the shorter edge to hundreds of pixels; a thin strip would fill the memory.
MAX_RATIO = 200
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

    16-bit grey is scaled to 8, transparency is laid on white, palettes and CMYK become RGB.

    Raises: PictureError `picture_too_large` by the header alone, before pixels are read (too many
    of them, or a strip); `picture_broken` for bytes that are no picture or that cannot be read to
    their end.
    """
    try:
        image = _open(data, max_pixels)
        image.load()
        return _rgb(_upright(image))
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("picture_too_large", str(error)) from error
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged bytes.
        raise PictureError("picture_broken", f"{type(error).__name__}: {error}") from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(
            "picture_too_large", f"{width} x {height} pixels, more than {max_pixels} in all"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise PictureError(
            "picture_too_large",
            f"{width} x {height} pixels, one edge over {MAX_RATIO} times the other",
        )
    # Only verify() notices a PNG whose last chunks are missing or damaged; it spoils the image.
    image.verify()
    return Image.open(io.BytesIO(data))


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
    grey = np.asarray(image).astype(np.float64)
    scaled = grey * 255 if image.mode == "F" else grey / 257
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)).convert("RGB")
