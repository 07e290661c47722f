"""Runs of an engine on tiny LLaVA: rows to answer, and what they come to."""

from functools import cache

from PIL import ImageOps

from lmmsteer.engine.edit import Edit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.schema import Request, row_id
from tests.engine.test_hooks import orthonormal
from tests.tiny import photographs, tiny_lmm

NEW = 12


GREEDY = Sampling(temperature=0, max_new_tokens=NEW)


PICTURES = ("astronaut", "cat", "coffee", "rocket")


PROMPTS = (
    "Describe the image in as much detail as possible.",
    "What?",
    "What is the age of the person in the photo? Pretend you are here.",
)


def request(image_id, prompt, seed=0):
    return Request(row_id(image_id, None, prompt, seed), image_id, prompt[:4], prompt, seed)


def rows(image_ids=PICTURES, prompts=PROMPTS, seeds=(0,)):
    return [request(i, prompt, seed) for i in image_ids for prompt in prompts for seed in seeds]


@cache
def many(count=40):
    """Small pictures, all different."""
    whole = [picture.resize((64, 64)) for picture in photographs().values()]
    return {
        f"{n:02d}": ImageOps.posterize(whole[n % 4].rotate(7 * n), 1 + n % 8) for n in range(count)
    }


def run(engine, requests=None, edit=Edit(), sampling=GREEDY, lmm=None, pictures=None, **more):  # noqa: B008
    return list(
        engine.generate(
            lmm or tiny_lmm(), requests or rows(), pictures or photographs(), edit, sampling, **more
        )
    )


def tokens(engine, *args, **named):
    found = run(engine, *args, **named)
    assert [r.error for r in found] == [None] * len(found)
    return [r.token_ids for r in found]


@cache
def unsteered():
    return tokens(Reference(6))


def direction(seed=1, k=1):
    return orthonormal(seed, k, tiny_lmm().d_model)
