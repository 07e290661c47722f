"""What tests of directions share: rows to answer, and an artifact as a fit makes it."""

import torch

from lmmsteer.methods.applying import Applying
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.schema import Request
from tests.tiny import photographs

LAYERS, WIDTH = 4, 32


PICTURES = dict(list(photographs().items())[:2])


PROMPTS = ("What is the gender of the person?", "Is it day or night?")


REQUESTS = [
    Request(f"{at:032x}", image_id, "p", prompt, seed)
    for at, (image_id, prompt, seed) in enumerate(
        (i, p, s) for i in PICTURES for p in PROMPTS for s in (0, 1)
    )
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def artifact(k=1, seed=0, layer=1, n_layers=LAYERS, d_model=WIDTH):
    """What a fit makes: for k = 1 the direction is a candidate's."""
    candidates = random(n_layers, d_model, seed=seed)
    rows = [candidates[layer], *random(k, d_model, seed=seed + 50)][:k]
    directions = torch.linalg.qr(torch.stack(rows).T)[0].T
    directions = directions * torch.sign(directions[0] @ candidates[layer])
    mean = random(n_layers, d_model, seed=seed + 100)
    return Artifact(
        {"directions": directions, "candidates": candidates, "mean": mean}, {"layer": layer}
    )


def everywhere(fitted=None, n_layers=LAYERS, **parameters):
    return Applying(**parameters).everywhere(fitted or artifact(), n_layers)


FACTS = ModelFacts("tiny", "12e4", WIDTH, LAYERS, 400, "t")
