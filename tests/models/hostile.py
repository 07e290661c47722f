"""Files that are no ordinary photographs, put together by hand or by Pillow, with what is due."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from tests.tiny import photographs

Size = tuple[int, int]


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


@cache
def cat(size: Size = (60, 40)) -> Image.Image:
    return photographs()["cat"].resize(size)


@cache
def ordinary() -> dict[str, bytes]:
    """Small files of every format that is read, as an honest program writes them."""
    frames = [Image.new("RGB", (20, 10), (n * 60, 0, 200)) for n in range(4)]
    later = {"save_all": True, "append_images": frames[1:]}
    return {
        "jpeg": saved(cat(), "JPEG", quality=90, exif=_exif(6)),
        "progressive": saved(cat(), "JPEG", progressive=True),
        "cmyk": saved(cat().convert("CMYK"), "JPEG"),
        "png": saved(cat(), "PNG"),
        "palette": saved(cat().quantize(16), "PNG", transparency=3),
        "sixteen": saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG"),
        "apng": saved(frames[0], "PNG", **later),
        "webp": saved(cat(), "WEBP"),
        "lossless": saved(cat().convert("RGBA"), "WEBP", lossless=True),
        "moving webp": saved(frames[0], "WEBP", **later),
        "gif": saved(cat(), "GIF"),
        "moving gif": saved(frames[0], "GIF", **later),
        "bmp": saved(cat(), "BMP"),
        "tiff": saved(cat(), "TIFF"),
        "lzw": saved(cat(), "TIFF", compression="tiff_lzw"),
        "deflate": saved(cat(), "TIFF", compression="tiff_adobe_deflate"),
        "ppm": saved(cat(), "PPM"),
        "jpeg2000": saved(cat(), "JPEG2000"),
    }


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_file(size: Size, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of a header and these chunks, each (name, data), with right checksums."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + name + data
        found += struct.pack(">I", zlib.crc32(name + data))
    return found


@cache
def zeros(length: int) -> bytes:
    """So many zero bytes, deflated a thousandfold."""
    packer = zlib.compressobj()
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(length >> 20)]
    return b"".join([*pieces, packer.flush()])


def gif_file(screen: Size, frame: Size, frames: int = 1) -> bytes:
    """A GIF whose screen and whose frames claim these sizes; of each frame one pixel is there."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes((9, 9, 9, 0, 0, 0))
    picture = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return head + picture * frames + b";"


def tiff_file(size: Size, **tags: tuple[int, int, int]) -> bytes:
    """A grey TIFF of one strip, four bytes; tags: t273=(type, count, value) for another value."""
    found = {256: (4, 1, size[0]), 257: (4, 1, size[1]), 258: (3, 1, 8), 259: (3, 1, 1)}
    found |= {262: (3, 1, 1), 278: (4, 1, size[1]), 279: (4, 1, 4)}
    others = {int(name[1:]): entry for name, entry in tags.items()}
    strip = 14 + 12 * len({**found, 273: 0, **others})
    entries = sorted({**found, 273: (4, 1, strip), **others}.items())
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in entries)
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + body
        + bytes((0, 0, 0, 0, 1, 2, 3, 4))
    )


def webp_file(canvas: Size) -> bytes:
    """A WebP whose extended header claims a canvas."""
    return _webp(_vp8x(canvas, 0) + saved(cat(), "WEBP", lossless=True)[12:])


def webp_frames(frames: int) -> bytes:
    """A WebP of so many frames, the first red and the others blue."""
    red, blue = (saved(Image.new("RGB", (8, 8), c), "WEBP")[12:] for c in ("red", "blue"))
    place = bytes(6) + b"\x07\0\0\x07\0\0" + b"\x0a\0\0" + b"\0"
    first, other = (_chunk(b"ANMF", place + image) for image in (red, blue))
    return _webp(_vp8x((8, 8), 2) + _chunk(b"ANIM", bytes(6)) + first + other * (frames - 1))


def _vp8x(canvas: Size, flags: int) -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in canvas)
    return _chunk(b"VP8X", bytes((flags, 0, 0, 0)) + sides)


def _webp(body: bytes) -> bytes:
    return _chunk(b"RIFF", b"WEBP" + body)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def bmp_file(size: Size) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 16, 0, 0, 54) + head + bytes(16)


def jpeg_file(size: Size) -> bytes:
    """A real JPEG whose frame header claims another size."""
    data = bytearray(saved(cat(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", size[1], size[0])
    return bytes(data)


def jpeg2000_file(size: Size) -> bytes:
    data = bytearray(saved(cat(), "JPEG2000", no_jp2=True))
    at = data.index(b"\xff\x51")
    data[at + 6 : at + 14] = struct.pack(">II", *size)
    return bytes(data)


@cache
def bombs() -> dict[str, bytes]:
    """Small files that would fill a memory, or keep a processor for hours."""
    pixel = (b"IDAT", zlib.compress(bytes(13)))
    profile = b"x\0\0" + zeros(64 << 20)
    return {
        "png header": png_file((32_000, 32_000), (b"IDAT", zeros(32 << 20))),
        "png data": png_file((2, 2), (b"IDAT", zeros(64 << 20))),
        "png profile": png_file((2, 2), (b"iCCP", profile), pixel),
        "png text": png_file((2, 2), (b"zTXt", profile), pixel),
        "png many texts": png_file((2, 2), *[(b"zTXt", b"x\0\0" + zeros(1 << 20))] * 100, pixel),
        "gif screen": gif_file((65_535, 65_535), (1, 1)),
        "gif frame": gif_file((1, 1), (65_535, 65_535)),
        "gif frames": gif_file((1, 1), (1, 1), 10_000),
        "webp frames": webp_frames(10_000),
        "webp canvas": webp_file((16_384, 16_384)),
        "webp huge canvas": webp_file((65_536, 32_768)),
        "tiff header": tiff_file((100_000, 100_000)),
        "tiff count": tiff_file((2, 2), t305=(2, 0xFFFFFFFF, 8)),
        "tiff strips": tiff_file((2, 2), t273=(4, 0x3FFFFFFF, 8)),
        "tiff offset": tiff_file((2, 2), t273=(4, 1, 0xFFFFFFF0)),
        "bmp header": bmp_file((40_000, 40_000)),
        "jpeg header": jpeg_file((65_500, 65_500)),
        "jpeg2000 header": jpeg2000_file((60_000, 60_000)),
    }
