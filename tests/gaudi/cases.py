"""What both roads on Gaudi cards are asked, and how plain transformers on a processor answers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lmmsteer.device import detect
from lmmsteer.engine.edit import Bias, Edit, ResidualEdit
from lmmsteer.engine.hooks import installed
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.models.lmm import Lmm, load
from lmmsteer.schema import Request, row_id
from tests.tiny import photographs
from tests.tiny_families import save_tiny

NEW = 10
CLOSE = 0.25  # Of the standard deviation of a step's logits: what bfloat16 may turn round.
PROMPTS = (
    "Describe the image in as much detail as possible.",
    "What?",
    "What is the age of the person in the photo? Pretend you are here.",
)
SAMPLINGS = {
    "greedy": Sampling(temperature=0, max_new_tokens=NEW),
    "sampled": Sampling(temperature=0.75, max_new_tokens=NEW),
}


def save(name: str, folder: Path) -> Path:
    """A tiny model; Qwen's windows are the published one's, and pictures have up to four."""
    made = save_tiny(name, folder)
    if name == "qwen2_5_vl":
        _change(made / "config.json", "vision_config", window_size=112)
        most = 40 * 28 * 28
        _change(made / "preprocessor_config.json", None, max_pixels=most)
        _change(made / "preprocessor_config.json", "size", longest_edge=most)
    return made


def _change(file: Path, part: str | None, **new: int) -> None:
    config = json.loads(file.read_text())
    (config if part is None else config[part]).update(new)
    file.write_text(json.dumps(config))


def opened(
    name: str, folder: Path, kind: str = "cpu", *, adapted: bool = False, dtype: str = "float32"
) -> Lmm:
    device = detect(kind)
    return load(name, str(folder), dtype=dtype, device=device, digest=name, adapted=adapted)


def rows() -> list[Request]:
    return [
        Request(row_id(picture, None, prompt, seed), picture, prompt[:4], prompt, seed)
        for picture in ("astronaut", "cat", "coffee")
        for prompt in PROMPTS
        for seed in (0, 1)
    ]


def edits(lmm: Lmm) -> dict[str, Edit]:
    """Two of one structure, so that the second must not be answered with the first one's values."""
    return {
        "unsteered": Edit(),
        "ablated": Edit(residual=ResidualEdit(_directions(lmm, 1))),
        "ablated otherwise": Edit(residual=ResidualEdit(_directions(lmm, 2))),
        "biased": biased(lmm),
    }


def biased(lmm: Lmm) -> Edit:
    return Edit(rules=(Bias(torch.linspace(-1, 1, lmm.vocab_size)),))


def _directions(lmm: Lmm, seed: int) -> torch.Tensor:
    drawn = torch.randn(lmm.d_model, 1, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn).Q.T


def answers(engine: object, lmm: Lmm, edit: Edit, sampling: Sampling) -> list[list[int] | None]:
    found = list(engine.generate(lmm, rows(), photographs(), edit, sampling))  # type: ignore[attr-defined]
    assert [one.error for one in found] == [None] * len(found)
    return [one.token_ids for one in found]


def expected(lmm: Lmm) -> dict[str, list[list[int] | None]]:
    """By edit and sampling, from transformers' generate with hooks."""
    return {
        f"{edit} {sampling}": answers(Reference(8), lmm, made, SAMPLINGS[sampling])
        for edit, made in edits(lmm).items()
        for sampling in SAMPLINGS
    }


def halves(engine: object, lmm: Lmm) -> list[list[int] | None]:
    """What is said in the dtype of real runs, of a model that was opened in it."""
    return answers(engine, lmm, edits(lmm)["ablated"], SAMPLINGS["greedy"])


def check_halves(name: str, folder: Path, found: list[list[int] | None]) -> None:
    """Where answers leave transformers' in bfloat16, both tokens are about as likely in float32."""
    rounded = halves(Reference(8), opened(name, folder, dtype="bfloat16"))
    assert sum(a == b for a, b in zip(found, rounded, strict=True)) >= len(found) // 2
    exact = opened(name, folder)
    for row, ours, theirs in zip(rows(), found, rounded, strict=True):
        assert ours is not None
        assert theirs is not None
        if ours == theirs:
            continue
        at = next(n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        picture = exact.prepare(photographs()[row.image_id])
        inputs = exact.stream_inputs(row.prompt, picture, "noise", ours[:at])
        with torch.inference_mode(), installed(exact, edits(exact)["ablated"]):
            logits = exact.model(**inputs, use_cache=False).logits[0, -1]
        apart = (logits[ours[at]] - logits[theirs[at]]).abs() / logits.std()
        assert apart < CLOSE, (name, row.row_id, float(apart))
