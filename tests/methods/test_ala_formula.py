"""What ALA does to logits, against its formula written out."""

import pytest
import torch

from lmmsteer.engine.edit.cross import CrossAdjustment
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.ala_cross import AlaCross
from lmmsteer.methods.base import Context
from lmmsteer.models.text_classifier import logits
from tests.methods.ala_world import (
    CPU,
    FAST,
    GENDER,
    LEXICON,
    OTHER,
    by_hand,
    facts,
    labels,
    learning,
    lexicon_ala,
    pictures,
    requests,
    steps,
    terms_of,
)
from tests.tiny import tiny_lmm


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("target", [0.0, -1.0, 0.5])
def test_with_a_lexicon_it_is_the_formula(target, magnitude):
    method = lexicon_ala(target=target, lam=3.0, tau=0.4, magnitude=magnitude)
    (rule,) = method.edit(tiny_lmm(), requests("a"), Context()).rules
    changed = 0
    for z, memory, said in steps(rule):
        wanted = by_hand(z, said, [(LEXICON, 3.0, 0.4, target, magnitude)])
        for dense in (False, True):
            found = rule.apply(z, memory, None, dense=dense)
            assert torch.allclose(found, wanted, atol=1e-5)
        changed += int((wanted != z).any(1).sum())
    assert 5 < changed < 100


def test_the_gate_may_ask_about_the_token_that_would_be_drawn():
    method = lexicon_ala(lam=3.0, tau=0.4, gate="drawn")
    (rule,) = method.edit(tiny_lmm(), requests("a"), Context()).rules
    changed = 0
    for z, memory, said in steps(rule):
        drawn = z.topk(2).indices[:, 1]
        wanted = by_hand(z, said, [(LEXICON, 3.0, 0.4, 0.0, False)], drawn)
        for dense in (False, True):
            found = rule.apply(z, memory, None, dense=dense, draw=lambda _, d=drawn: d)
            assert torch.allclose(found, wanted, atol=1e-5)
        changed += int((wanted != z).any(1).sum())
    assert changed > 0


def test_lambda_zero_leaves_every_bit():
    cross = CrossAdjustment.of(
        [terms_of(LEXICON, lam=0.0), terms_of(OTHER, lam=0.0), terms_of(OTHER, lam=0.0, tau=0.0)]
    )
    for rule in (terms_of(LEXICON, lam=0.0, tau=0.0), cross):
        for z, memory, _ in steps(rule):
            z[:, 7] = -torch.inf
            for dense in (False, True):
                assert torch.equal(rule.apply(z, memory, None, dense=dense), z)


def test_several_attributes_are_adjusted_on_the_logits_as_they_were():
    terms = [
        {
            "attribute": "gender",
            "classifier": "lexicon",
            "lexicon": LEXICON,
            "target": 0.0,
            "lam": 20.0,
        },
        {
            "attribute": {"name": "age", "question": "?", "words": ["old"]},
            "classifier": "lexicon",
            "lexicon": OTHER,
            "target": -0.5,
            "lam": 4.0,
            "tau": 0.3,
        },
    ]
    method = AlaCross(terms=terms)
    assert [member["name"] for member in method.members] == ["ala", "ala"]
    assert not method.needs_attribute
    made = [
        {key: value for key, value in member.items() if key != "attribute"}
        for member in method.members
    ]
    parts = tuple((Ala(**one), Context()) for one in made)
    (rule,) = method.edit(tiny_lmm(), requests("a", "b"), Context(parts=parts)).rules
    for z, memory, said in steps(rule):
        wanted = by_hand(
            z, said, [(LEXICON, 20.0, 0.1, 0.0, False), (OTHER, 4.0, 0.3, -0.5, False)]
        )
        for dense in (False, True):
            assert torch.allclose(rule.apply(z, memory, None, dense=dense), wanted, atol=1e-5)


def test_one_rule_after_another_would_see_what_the_first_has_changed():
    first, second = terms_of(LEXICON), terms_of(OTHER, -0.5, tau=0.5)
    he, the = (
        tiny_lmm().tokenizer.encode(w, add_special_tokens=False)[-1] for w in (" he", " the")
    )
    z = torch.zeros(1, tiny_lmm().vocab_size)
    z[0, he], z[0, the] = 5.0, 4.5
    rule = CrossAdjustment.of([first, second])
    together = rule.apply(z, rule.start(1, CPU), None, dense=False)
    then = first.apply(z, first.start(1, CPU), None, dense=False)
    then = second.apply(then, second.start(1, CPU), None, dense=False)
    assert (together[0, he], together[0, the]) == (3.0, 4.5)  # The second gate stays shut.
    assert (then[0, he], then[0, the]) == (3.0 - 2 * 1.5 * 0.25, 4.5 - 2 * 1.5)


def test_every_row_of_several_attributes_has_its_own_targets():
    targets = torch.tensor([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])
    rule = CrossAdjustment.of([terms_of(LEXICON, targets), terms_of(OTHER, 0.5, magnitude=True)])
    assert rule.rows.shape == (6, 2)
    order = [3, 0, 5, 1, 4, 2]
    for z, memory, said in steps(rule):
        wanted = torch.cat(
            [
                by_hand(
                    z[[at]],
                    [said[at]],
                    [
                        (LEXICON, 2.0, 0.1, targets[order[at]].item(), False),
                        (OTHER, 2.0, 0.1, 0.5, True),
                    ],
                )
                for at in range(6)
            ]
        )
        for dense in (False, True):
            found = rule.apply(z, memory, rule.rows[order], dense=dense)
            assert torch.allclose(found, wanted, atol=1e-5)
    assert CrossAdjustment.of([terms_of(LEXICON), terms_of(OTHER)]).rows is None


def test_one_term_is_the_single_adjustment():
    single = terms_of(LEXICON, -0.5, lam=1.5, tau=0.4)
    for z, memory, _ in steps(single):
        found = CrossAdjustment.of([single]).apply(z, memory, None, dense=False)
        assert torch.equal(found, single.apply(z, memory, None, dense=False))


def test_a_fitted_adjustment_is_the_formula(fitted):
    artifact, _ = fitted
    (rule,) = (
        Ala(target=0.5, lam=3.0).edit(tiny_lmm(), requests("a"), Context(artifact=artifact)).rules
    )
    weights = {k.removeprefix("text."): x for k, x in artifact.tensors.items() if k[:5] == "text."}
    beta, said = artifact.tensors["beta"][0], torch.tensor([[51, 100], [52, 7]])
    memory = rule.advance(rule.advance(rule.start(2, CPU), said[:, 0]), said[:, 1])
    z = torch.randn(2, len(beta), generator=torch.Generator().manual_seed(0))
    z[:, 200] = 9.0
    read = logits(weights, torch.cat([said, torch.full((2, 1), 200)], 1))[:, 1].sigmoid() * 2 - 1
    wanted = z - 3 * (read - 0.5)[:, None] * beta
    assert torch.allclose(rule.apply(z, memory, None, dense=False), wanted, atol=1e-5)
    z[:, 300] = 10.0  # A token that no answer held, and so one that does not open the gate.
    assert torch.equal(rule.apply(z, memory, None, dense=False), z)


def test_of_three_classes_each_is_held_against_the_rest():
    groups = dict(zip(labels(), ["a", "b", "c"] * 4, strict=True))
    method = Ala(classes=["a", "b", "c"], **{**FAST, "epochs": 1})
    artifact = method.fit(tiny_lmm(), learning(labels=groups))
    assert artifact.tensors["beta"].shape == (3, tiny_lmm().vocab_size)
    method.check(artifact, facts())
    context = Context(GENDER, artifact, pictures=pictures())
    (rule,) = method.edit(tiny_lmm(), requests("01", "02"), context).rules
    assert rule.rows.shape == (2, 3)
    assert torch.allclose(rule.rows.sum(1), torch.tensor([-1.0, -1.0]), atol=1e-5)
    memory, said = rule.start(2, CPU), torch.tensor([5, 6])
    read = [reader.score(memory[:, :127], said) for reader in rule.readers]
    assert torch.allclose(sum(read), torch.tensor([-1.0, -1.0]), atol=1e-5)
    z = torch.zeros(2, tiny_lmm().vocab_size)
    z[:, 100] = 5.0
    betas = artifact.tensors["beta"]
    score = [reader.score(memory[:, :127], torch.tensor([100, 100])) for reader in rule.readers]
    shift = [
        2 * (a - s)[:, None] * beta if beta[100].abs() >= 0.1 else 0 * z
        for a, s, beta in zip(score, rule.rows.T, betas, strict=True)
    ]
    found = rule.apply(z, memory, rule.rows, dense=True)
    assert torch.allclose(found, z - sum(shift), atol=1e-5)
    assert not torch.equal(found, z)
