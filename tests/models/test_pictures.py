import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lmmsteer.errors import PictureError
from lmmsteer.models.pictures import decode
from tests.tiny import photographs


def saved(image, format_, **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def pixels(image):
    return np.asarray(image).astype(int)


CAT = photographs()["cat"].resize((60, 40))
FILES = {
    "jpeg": saved(CAT, "JPEG", quality=90),
    "progressive": saved(CAT, "JPEG", progressive=True),
    "png": saved(CAT, "PNG"),
    "webp": saved(CAT, "WEBP", lossless=True),
    "bmp": saved(CAT, "BMP"),
    "tiff": saved(CAT, "TIFF"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_photograph_is_shown_as_pillow_opens_it(kind):
    shown = decode(FILES[kind])
    assert shown.mode == "RGB"
    assert np.array_equal(pixels(shown), pixels(Image.open(io.BytesIO(FILES[kind]))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(CAT, "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode(data).size == ((60, 40) if orientation < 5 else (40, 60))
    assert np.array_equal(pixels(decode(data)), pixels(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_exif_that_cannot_be_read_leaves_the_picture_as_it_stands():
    data = saved(CAT, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert decode(data).size == CAT.size


def test_sixteen_bit_grey_is_scaled_to_eight():
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    shown = pixels(decode(saved(Image.fromarray(grey), "PNG")))
    assert shown[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]
    assert np.array_equal(pixels(decode(saved(Image.fromarray(grey), "TIFF"))), shown)


def test_transparency_is_laid_on_white():
    layer = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    layer.putpixel((2, 0), (0, 0, 0, 51))
    assert pixels(decode(saved(layer, "PNG")))[0].tolist() == [
        [200, 0, 0],
        [255, 255, 255],
        [204, 204, 204],
    ]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert decode(saved(grey, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    shown = decode(saved(palette, "GIF", transparency=0))
    assert pixels(shown)[0].tolist() == [[255, 255, 255], [10, 20, 30]]


def test_palettes_bilevel_and_cmyk_become_rgb():
    assert np.array_equal(
        pixels(decode(saved(CAT.quantize(16), "PNG"))), pixels(CAT.quantize(16).convert("RGB"))
    )
    assert decode(saved(Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    cmyk = decode(saved(CAT.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels(cmyk) - pixels(CAT)).mean() < 4


def test_of_an_animation_the_first_frame_is_shown():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((1, 1)) == (255, 0, 0)


@settings(deadline=None)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 0.95))
def test_a_file_cut_short_is_broken(kind, share):
    data = FILES[kind]
    with pytest.raises(PictureError) as error:
        decode(data[: int(share * len(data))])
    assert error.value.kind == "picture_broken"


def test_a_png_without_its_last_chunk_or_with_a_flipped_bit_is_broken():
    flipped = bytearray(FILES["png"])
    flipped[len(flipped) // 2] ^= 1
    for data in (FILES["png"][:-12], bytes(flipped)):
        with pytest.raises(PictureError) as error:
            decode(data)
        assert error.value.kind == "picture_broken"


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\xff\xd8\xff", b"\0" * 5000])
def test_bytes_that_are_no_picture_are_broken(data):
    with pytest.raises(PictureError) as error:
        decode(data)
    assert error.value.kind == "picture_broken"


@pytest.mark.parametrize("side", [8001, 10_000, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    data += struct.pack(">I", zlib.crc32(header))
    with pytest.raises(PictureError) as error:
        decode(data + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))
    assert error.value.kind == "picture_too_large"


def test_a_strip_that_scaling_would_blow_up_is_refused():
    assert decode(saved(Image.new("RGB", (200, 1)), "PNG")).size == (200, 1)
    for size in ((201, 1), (3, 601)):
        with pytest.raises(PictureError) as error:
            decode(saved(Image.new("RGB", size), "PNG"))
        assert error.value.kind == "picture_too_large"
