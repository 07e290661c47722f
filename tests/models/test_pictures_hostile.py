"""Hostile files through the decoding processes: a typed reason, or the right pixels."""

import os
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmmsteer.errors import PictureError
from lmmsteer.models.picture_pool import Decoders
from lmmsteer.models.pictures import decode
from tests.models.fuzz_pictures import campaign, outcome
from tests.models.hostile import bombs, cat, jpeg_file, ordinary, png_file, saved

TOO_LARGE = {name for name in bombs() if "header" in name or "canvas" in name} | {
    "gif screen",
    "gif frame",
}
SHOWN = {"png data": (2, 2), "gif frames": (1, 1), "webp frames": (8, 8), "tiff count": (2, 2)}


def resident() -> int:
    """Bytes of this process's memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders()) as made:
        yield made


def shown(decoders: Decoders, data: bytes) -> list[list[list[int]]]:
    """The pixels, row by row."""
    return np.asarray(decoders.submit(data).result()).tolist()


def refused(decoders: Decoders, data: bytes) -> tuple[str, str]:
    with pytest.raises(PictureError) as caught:
        decoders.submit(data).result()
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize("name", ordinary())
def test_a_picture_has_the_pixels_that_decode_gives_here(name: str, decoders: Decoders) -> None:
    there = decoders.submit(ordinary()[name]).result()
    here = decode(ordinary()[name])
    assert (there.mode, there.size) == ("RGB", here.size)
    assert there.tobytes() == here.tobytes()


def test_sixteen_bits_palettes_cmyk_and_transparency_become_these_pixels(
    decoders: Decoders,
) -> None:
    deep = zlib.compress(b"\0" + bytes.fromhex("ffff 0000 8080 00ff 0100 7fff"))
    rows = shown(decoders, png_file((2, 1), (b"IDAT", deep), depth=16))
    assert rows == [[[255, 0, 128], [0, 1, 127]]]
    colours = (b"PLTE", bytes((10, 20, 30, 0, 0, 0))), (b"tRNS", bytes((255, 51)))
    indexed = (b"IDAT", zlib.compress(bytes((0, 0, 1))))
    assert shown(decoders, png_file((2, 1), *colours, indexed, colour=3)) == [
        [[10, 20, 30], [204, 204, 204]]  # black, a fifth opaque, on white
    ]
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow are red
    red = np.array(shown(decoders, saved(ink, "JPEG", quality=95)))
    assert np.abs(red - np.array([255, 0, 0])).max() <= 3


def test_a_picture_on_its_side_is_turned(decoders: Decoders) -> None:
    image = Image.new("RGB", (2, 1), "red")
    image.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera's right is up: what is left in the file is the top.
    assert shown(decoders, saved(image, "PNG", exif=exif)) == [[[255, 0, 0]], [[0, 0, 255]]]


def test_a_colour_profile_of_junk_changes_nothing(decoders: Decoders) -> None:
    for format_, options in (("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True})):
        junk = saved(cat(), format_, icc_profile=b"junk" * 999, **options)
        assert shown(decoders, junk) == shown(decoders, saved(cat(), format_, **options))
    undeflated = (b"iCCP", b"x\0\0not deflated"), (b"IDAT", zlib.compress(bytes(4)))
    assert shown(decoders, png_file((1, 1), *undeflated)) == [[[0, 0, 0]]]


@pytest.mark.parametrize("name", ["apng", "moving webp", "moving gif"])
def test_the_first_frame_of_a_moving_picture_is_shown(name: str, decoders: Decoders) -> None:
    pixels = np.array(shown(decoders, ordinary()[name]))
    assert np.abs(pixels - np.array([0, 0, 200])).max() <= 4  # Frame n is (60 n, 0, 200).


@pytest.mark.parametrize("name", ordinary())
def test_a_file_cut_to_a_half_is_broken(name: str, decoders: Decoders) -> None:
    moving = name.startswith("moving")  # The first frame may lie whole in the half.
    data = ordinary()[name][: 60 if moving else len(ordinary()[name]) // 2]
    assert refused(decoders, data)[0] == "picture_broken"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 5000,
        b"<html>404</html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"\x89PNG\r\n\x1a\n" + saved(cat(), "JPEG"),
        saved(cat(), "TGA"),
    ],
)
def test_what_is_no_picture_of_a_known_format_is_broken(data: bytes, decoders: Decoders) -> None:
    kind, reason = refused(decoders, data)
    assert (kind, reason.partition(":")[0]) == ("picture_broken", "no picture of a format read")


@pytest.mark.filterwarnings("ignore")
def test_bombs_are_refused_or_shown_while_memory_stays_flat(decoders: Decoders) -> None:
    decoders.submit(ordinary()["png"]).result()
    before = resident()
    found = {name: outcome(decoders.submit(data).result) for name, data in bombs().items()}
    assert resident() - before < 32 << 20
    assert {name for name, made in found.items() if made[0] == "picture_too_large"} == TOO_LARGE
    sizes = {name: f"RGB {size}" for name, size in SHOWN.items()}
    assert {name: found[name][0] for name in SHOWN} == sizes
    rest = set(found) - TOO_LARGE - set(SHOWN)
    assert {found[name][0] for name in rest} == {"picture_broken"}
    for name, data in bombs().items():
        assert found[name] == outcome(partial(decode, data)), name


def test_a_strip_and_a_picture_of_too_many_pixels_are_refused_by_the_header_alone(
    decoders: Decoders,
) -> None:
    too_large = ("picture_too_large", "its header says more than 64000000 pixels")
    assert refused(decoders, jpeg_file((8001, 8000))) == too_large
    assert refused(decoders, png_file((400, 1)))[0] == "picture_too_large"


def test_a_reason_is_the_same_each_time_and_holds_no_address(decoders: Decoders) -> None:
    still = [data for name, data in ordinary().items() if not name.startswith("moving")]
    broken = [data[: len(data) // 2] for data in still] + [b"no picture"]
    first, second = ([refused(decoders, data) for data in broken] for _ in range(2))
    assert first == second
    assert not [reason for _, reason in first if "0x7" in reason or "\n" in reason]


@pytest.mark.filterwarnings("ignore")
def test_five_hundred_damaged_files_have_the_outcome_that_decode_has_here(
    decoders: Decoders,
) -> None:
    met, disagreeing = campaign(range(500), decoders)
    assert disagreeing == []
    assert set(met) == {"a picture", "picture_broken", "picture_too_large"}
