"""Small pictures with random damage, through the decoding processes and through `decode` itself.

Run: python -m tests.models.fuzz_pictures 20000 [first seed]. A seed is a damaged file.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial

from PIL import Image

from lmmsteer.errors import PictureError
from lmmsteer.models.picture_pool import Decoders
from lmmsteer.models.pictures import decode
from tests.models.hostile import ordinary

AT_ONCE = 64

Outcome = tuple[str, object]


def damaged(seed: int) -> tuple[str, bytes]:
    """One of the ordinary files after one to eight random changes, and its name."""
    draw = random.Random(seed)
    name = draw.choice(sorted(ordinary()))
    data = bytearray(ordinary()[name])
    for _ in range(draw.randint(1, 8)):
        at = (
            draw.randrange(len(data))
            if draw.random() < 0.5
            else draw.randrange(min(100, len(data)))
        )
        draw.choice(DAMAGES)(data, at, draw)
    return name, bytes(data)


def _flip(data: bytearray, at: int, draw: random.Random) -> None:
    data[at] ^= 1 << draw.randrange(8)


def _replace(data: bytearray, at: int, draw: random.Random) -> None:
    data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _word(data: bytearray, at: int, draw: random.Random) -> None:
    length = draw.choice((2, 4))
    data[at : at + length] = draw.choice((b"\xff", b"\0", b"\x7f")) * length


def _insert(data: bytearray, at: int, draw: random.Random) -> None:
    data[at:at] = draw.randbytes(draw.randint(1, 16))


def _drop(data: bytearray, at: int, draw: random.Random) -> None:
    if len(data) > 40:
        del data[at : min(at + draw.randint(1, 16), len(data) - 8)]


def _repeat(data: bytearray, at: int, draw: random.Random) -> None:
    data[at:at] = data[at : at + draw.randint(1, 64)]


DAMAGES = (_flip, _replace, _word, _insert, _drop, _repeat)


def outcome(make: Callable[[], Image.Image]) -> Outcome:
    """Size and pixels, or the kind and the text of the error."""
    try:
        image = make()
    except PictureError as error:
        return error.kind, str(error)
    except MemoryError:
        return "picture_decoder_died", ""
    return f"{image.mode} {image.size}", image.tobytes()


def campaign(seeds: range, decoders: Decoders) -> tuple[Counter[str], list[int]]:
    """How often each outcome was met, and the seeds whose outcome there is another than here."""
    met: Counter[str] = Counter()
    disagreeing: list[int] = []
    for start in range(seeds.start, seeds.stop, AT_ONCE):
        some = range(start, min(start + AT_ONCE, seeds.stop))
        coming = [decoders.submit(damaged(seed)[1]) for seed in some]
        for seed, future in zip(some, coming, strict=True):
            there = outcome(future.result)
            met[there[0] if there[0].startswith("picture_") else "a picture"] += 1
            if there != outcome(partial(decode, damaged(seed)[1])):
                disagreeing.append(seed)
    return met, disagreeing


def main(count: int, first: int = 0) -> int:
    warnings.simplefilter("ignore")
    with closing(Decoders()) as decoders:
        met, disagreeing = campaign(range(first, first + count), decoders)
    print(f"{count} damaged files from seed {first}: {dict(met.most_common())}")
    for seed in disagreeing:
        print(f"seed {seed} ({damaged(seed)[0]}): decoded otherwise in a process of its own")
    return 1 if disagreeing else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
