"""blocklist and vdd against transformers' own processors and the equation."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from lmmsteer.engine.edit import Edit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Attribute, Context
from lmmsteer.methods.blocklist import Blocklist
from lmmsteer.methods.vdd import Vdd
from lmmsteer.methods.words import sequences, whole_spellings
from tests.engine.test_families import NEW, rows
from tests.engine.test_rules import After, by_generate, told
from tests.tiny import tiny_lmm
from tests.tiny_families import tiny_family_lmm

GREEDY = Sampling(temperature=0, max_new_tokens=NEW)
ENGINES = [lambda: Shared(5), lambda: Reference(5)]
FAMILIES = ["llava", "mllama", "qwen2_5_vl", "paligemma", "blip", "clipcap"]


def spoken(name):
    """A word that the model says in one token and one that takes it several, from its answers."""
    lmm = tiny_family_lmm(name)
    said = {token for tokens in told(name, ENGINES[0], Edit()) for token in tokens}
    texts = {t: lmm.tokenizer.decode([t]).strip() for t in said}
    words = [text for text in texts.values() if text.isalpha() and text.isascii()]
    return words[:3]


@pytest.mark.parametrize("make", ENGINES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_blocklist_is_suppress_tokens_and_sequence_bias(name, make):
    lmm = tiny_family_lmm(name)
    words = [*spoken(name), "kitchenette"]
    single = whole_spellings(lmm.tokenizer, words)
    several = sequences(lmm.tokenizer, words)
    assert single
    assert several

    def processors(_, length):
        bias = dict.fromkeys(several, -math.inf)
        return [
            SuppressTokensLogitsProcessor(single, device="cpu"),
            After(length, SequenceBiasLogitsProcessor(sequence_bias=bias)),
        ]

    edit = Blocklist(words=words).edit(lmm, rows(), Context())
    wanted = by_generate(name, processors)
    assert told(name, make, edit) == wanted
    assert wanted != told(name, make, Edit())


def test_phrases_and_case_and_spaces_are_covered():
    tokenizer = tiny_lmm().tokenizer
    for text in ("A heavy-set MAN said", "the man", "Man", "(man"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        single = set(whole_spellings(tokenizer, ["man"]))
        several = sequences(tokenizer, ["man"])
        windows = {tuple(ids[a:b]) for a in range(len(ids)) for b in range(a + 1, len(ids) + 1)}
        assert single & set(ids) or windows & set(several), text
    phrase = sequences(tokenizer, ["old lady"])
    assert tuple(tokenizer(" old lady", add_special_tokens=False)["input_ids"]) in phrase
    assert not whole_spellings(tokenizer, ["old lady"])


def test_words_default_to_the_attributes_and_nothing_forbids_nothing():
    lmm = tiny_lmm()
    attribute = Attribute("gender", "", ("woman", "he"))
    made = Blocklist().edit(lmm, rows(), Context(attribute))
    same = Blocklist(words=["woman", "he"]).edit(lmm, rows(), Context())
    assert torch.equal(made.rules[0].bias, same.rules[0].bias)
    assert made.rules[0].bias.isinf().sum() == len(whole_spellings(lmm.tokenizer, ["woman", "he"]))
    assert Blocklist(words=[]).edit(lmm, rows(), Context(attribute)) == Edit()
    assert Blocklist(penalty=0.0).edit(lmm, rows(), Context(attribute)) == Edit()
    with pytest.raises(LmmsteerError, match="no words to forbid"):
        Blocklist().edit(lmm, rows(), Context())
    with pytest.raises(LmmsteerError, match=r"method\.penalty"):
        Blocklist(penalty=-1.0)


class Contrasted(LogitsProcessor):
    """The equation with a plain second forward pass over the prompt without its picture."""

    def __init__(self, lmm, length, alpha, beta):
        self.lmm, self.length, self.alpha, self.beta = lmm, length, alpha, beta

    def __call__(self, ids, scores):
        shown = ids[:, ids[0] != self.lmm.image_token_id]
        other = self.lmm.model(input_ids=shown, attention_mask=torch.ones_like(shown)).logits[:, -1]
        mixed = (1 + self.alpha) * scores - self.alpha * other.float()
        floor = scores.max() + math.log(self.beta)
        return mixed.masked_fill(scores < floor, -math.inf)


@pytest.mark.parametrize("make", ENGINES)
@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_vdd_removed_is_the_equation_on_generate(name, make):
    lmm = tiny_family_lmm(name)
    edit = Vdd(alpha=0.7, beta=0.05).edit(lmm, rows(), Context())
    wanted = by_generate(name, lambda _, length: [Contrasted(lmm, length, 0.7, 0.05)])
    assert told(name, make, edit) == wanted
    assert wanted != told(name, make, Edit())


def test_vdds_parameters_are_checked_and_average_has_two_streams():
    assert Vdd(contrast="average").edit(tiny_lmm(), rows(), Context()).streams == (
        "removed",
        "unknown",
    )
    assert Vdd(alpha=0.0, beta=0.0).edit(tiny_lmm(), rows(), Context()) == Edit()
    for bad in ({"contrast": "x"}, {"alpha": -1.0}, {"beta": 2.0}):
        with pytest.raises(LmmsteerError, match=next(iter(bad))):
            Vdd(**bad)
