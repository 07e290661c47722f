"""Pictures small enough to lie inside a page."""

from __future__ import annotations

import base64
import io
import warnings

from PIL import Image, ImageOps

QUALITY = 80
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
MAX_PIXELS = 64_000_000


def jpeg(data: bytes, pixels: int) -> bytes | None:
    """A JPEG of at most `pixels` on its longer side; None for what is no picture."""
    image = opened(data, pixels)
    if image is None:
        return None
    image.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def opened(data: bytes, pixels: int | None = None) -> Image.Image | None:
    """The first frame, upright, RGB on white; None for what is no picture or far too large.

    pixels: what its longer side is to be made smaller to; a JPEG is then decoded no larger than
    that needs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                return None
            if pixels:
                image.draft("RGB", (2 * pixels, 2 * pixels))
            return _opaque(ImageOps.exif_transpose(image))
    except Exception:  # Pillow's decoders raise nearly every type on damaged bytes.
        return None


def data_uri(data: bytes, pixels: int) -> str | None:
    """`jpeg` as a data URI."""
    made = jpeg(data, pixels)
    return None if made is None else uri(made)


def uri(made: bytes) -> str:
    """A JPEG's bytes as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(made).decode()}"


def _opaque(image: Image.Image) -> Image.Image:
    """RGB: transparency on white, 16 bit scaled to 8."""
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
