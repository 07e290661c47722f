"""What ALA's tests share: words, drawn pictures, answers, and the formula by hand."""

import re

import numpy as np
import torch
from PIL import Image

from lmmsteer.engine.edit import Adjustment
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.artifact import ModelFacts
from lmmsteer.methods.base import Attribute, Learning
from lmmsteer.models.lexicon import Lexicon, lexicon_beta
from lmmsteer.schema import Request, Response
from tests.tiny import tiny_lmm

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


CPU = torch.device("cpu")


GENDER = Attribute("gender", "What is the gender of the person in the photo?", ("he", "she"))


LEXICON = {"he": 1.0, "is": -1.0, "or": 0.5}


OTHER = {"a": -0.5, "the": 1.0, "he": 0.25}


def lexicon_ala(scores=LEXICON, **given):
    return Ala(**{"classifier": "lexicon", "lexicon": scores, "target": 0.0, **given})


def requests(*image_ids):
    return [
        Request(f"{at:032x}", image_id, "p", "What is {this}?", 0)
        for at, image_id in enumerate(image_ids)
    ]


def pictures(count=12):
    """Small pictures, the first half dark and the second light, labelled so."""
    drawn = np.random.default_rng(0)
    made = {}
    for at in range(count):
        level = 40 if at < count // 2 else 190
        pixels = drawn.integers(level, level + 50, (32, 32, 3), dtype=np.uint8)
        made[f"{at:02d}"] = Image.fromarray(pixels)
    return made


def labels(count=12):
    return {f"{at:02d}": "woman" if at < count // 2 else "man" for at in range(count)}


def answers(lmm, asked, shown, edit, max_new_tokens, temperature=0.0):
    """A model that says who is there: token 100 for women and 200 for men, among others."""
    del lmm, edit, max_new_tokens
    for at, request in enumerate(asked):
        tone = np.asarray(shown[request.image_id]).mean()
        said = [50 + at % 7, 200 if tone > 128 else 100, 60 + at % 5]
        yield Response(
            request.row_id, request.image_id, request.prompt_id, 0, "...", said, 3, "eos"
        )


def learning(**given):
    found = {
        "pictures": pictures(),
        "attribute": GENDER,
        "edited": None,
        "answer": answers,
        "labels": labels(),
    }
    return Learning(**{**found, **given})


FAST = {"epochs": 12, "lr": 1e-3, "batch": 8, "beta_steps": 4}


def facts(**given):
    lmm = tiny_lmm()
    found = {
        "name": lmm.name,
        "digest": lmm.digest,
        "d_model": lmm.d_model,
        "n_layers": lmm.n_layers,
        "vocab_size": lmm.vocab_size,
        "tokenizer": lmm.tokenizer_digest,
    }
    return ModelFacts(**{**found, **given})


def mean_score(ids, scores):
    text = tiny_lmm().tokenizer.decode(ids, skip_special_tokens=True)
    found = [scores[w] for w in WORD.findall(text.casefold()) if w in scores]
    return sum(found) / len(found) if found else 0.0


def spelled(scores):
    tokenizer = tiny_lmm().tokenizer
    texts = [tokenizer.decode([i]).removeprefix(" ").casefold() for i in range(len(tokenizer))]
    return np.array([scores.get(text, 0.0) for text in texts])


def by_hand(z, said, terms, drawn=None):
    """z - sum_k lam (a - s) beta, row by row. terms: (scores, lam, tau, s, magnitude).

    drawn: the token that each row is asked about, where that is not the likeliest.
    """
    found = z.double().numpy().copy()
    for row, spoken in enumerate(said):
        token = int(z[row].argmax() if drawn is None else drawn[row])
        for scores, lam, tau, target, magnitude in terms:
            beta = spelled(scores)
            if abs(beta[token]) >= tau:
                a = mean_score([*spoken, token], scores)
                if magnitude:
                    a, beta = abs(a), np.abs(beta)
                found[row] -= lam * (a - target) * beta
    return torch.from_numpy(found).float()


def steps(rule, seed=0, rows=6, count=20):
    """Random logits with the memory of what was said before: (z, memory, said)."""
    generator = torch.Generator().manual_seed(seed)
    telling = torch.from_numpy(spelled({**LEXICON, **OTHER})).nonzero()[:, 0]
    tokenizer, vocab = tiny_lmm().tokenizer, tiny_lmm().vocab_size
    pieces = [i for i in range(vocab) if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([i])]
    memory, said = rule.start(rows, CPU), [[] for _ in range(rows)]
    for _ in range(count):
        z = torch.randn(rows, vocab, generator=generator)
        z[:, pieces] -= (
            20  # Of characters of several bytes, which decoding shows when they are whole.
        )
        chosen = telling[torch.randint(len(telling), (rows,), generator=generator)]
        z[torch.arange(rows), chosen] += torch.randint(0, 12, (rows,), generator=generator)
        yield z, memory, [list(one) for one in said]
        tokens = z.argmax(-1)
        memory = rule.advance(memory, tokens)
        for one, token in zip(said, tokens.tolist(), strict=True):
            one.append(token)


def terms_of(scores, target=0.0, **given):
    """An adjustment by a lexicon. target: a number, or a tensor with one for each request."""
    lmm = tiny_lmm()
    return Adjustment(
        lexicon_beta(lmm.tokenizer, scores, lmm.vocab_size),
        target if isinstance(target, torch.Tensor) else torch.tensor([target]),
        Lexicon.of(lmm.tokenizer, scores, lmm.vocab_size),
        **given,
    )
