import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from lmmsteer.engine.edit import Adjustment
from lmmsteer.engine.edit.cross import CrossAdjustment
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.ala_cross import AlaCross
from lmmsteer.methods.ala_fit import (
    PictureFeatures,
    Texts,
    Training,
    classes_of,
    fit_picture_classifier,
    read_texts,
    split,
    text_accuracy,
    train_text_classifier,
)
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.base import Attribute, Context, Learning
from lmmsteer.methods.prompt_predicted import PromptPredicted
from lmmsteer.models.lexicon import Lexicon, lexicon_beta
from lmmsteer.models.text_classifier import logits
from lmmsteer.schema import Request, Response
from tests.tiny import photographs, tiny_lmm

CONF = Path(__file__).parents[2] / "conf" / "method"
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


@pytest.fixture(scope="module")
def fitted():
    said = []
    artifact = Ala(**FAST).fit(tiny_lmm(), learning(say=said.append))
    return artifact, said


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


def by_hand(z, said, terms):
    """z - sum_k lam (a - s) beta, row by row. terms: (scores, lam, tau, s, magnitude)."""
    found = z.double().numpy().copy()
    for row, spoken in enumerate(said):
        greedy = int(z[row].argmax())
        for scores, lam, tau, target, magnitude in terms:
            beta = spelled(scores)
            if abs(beta[greedy]) >= tau:
                a = mean_score([*spoken, greedy], scores)
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


@pytest.mark.parametrize("name", ["ala", "ala_cross", "prompt_predicted"])
def test_a_yaml_has_the_parameters_with_their_defaults(name):
    kind = {"ala": Ala, "ala_cross": AlaCross, "prompt_predicted": PromptPredicted}[name]
    shown = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert next(iter(shown)) == "name"
    assert shown == asdict(kind())
    typed = OmegaConf.merge(OmegaConf.structured(kind), shown)
    assert OmegaConf.to_container(typed) == shown


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("ala_ba", {}),
        ("ala_n", {"target": 0.0}),
        ("ala_toxicity", {"target": -1.0, "classes": ["non-toxic", "toxic"], "epochs": 10}),
    ],
)
def test_a_preset_is_ala_with_other_parameters(name, differs):
    shown = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert shown.pop("uses") == "ala"
    assert Ala(**shown) == Ala(name=name, **differs)


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


def test_lambda_zero_leaves_every_bit():
    cross = CrossAdjustment.of(
        [terms_of(LEXICON, lam=0.0), terms_of(OTHER, lam=0.0), terms_of(OTHER, lam=0.0, tau=0.0)]
    )
    for rule in (terms_of(LEXICON, lam=0.0, tau=0.0), cross):
        for z, memory, _ in steps(rule):
            z[:, 7] = -torch.inf
            for dense in (False, True):
                assert torch.equal(rule.apply(z, memory, None, dense=dense), z)


def terms_of(scores, target=0.0, **given):
    """An adjustment by a lexicon. target: a number, or a tensor with one for each request."""
    lmm = tiny_lmm()
    return Adjustment(
        lexicon_beta(lmm.tokenizer, scores, lmm.vocab_size),
        target if isinstance(target, torch.Tensor) else torch.tensor([target]),
        Lexicon.of(lmm.tokenizer, scores, lmm.vocab_size),
        **given,
    )


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


def test_a_lexicon_with_a_number_learns_nothing_and_takes_nothing_from_an_attribute():
    method = lexicon_ala()
    assert not method.needs_artifact
    assert not method.fitted
    assert method.attribute_given
    for other in (Ala(), Ala(target=0.0), lexicon_ala(target="picture")):
        assert other.needs_artifact
        assert other.fitted
        assert not other.attribute_given
    with pytest.raises(LmmsteerError, match="nothing to fit"):
        method.fit(tiny_lmm(), learning())
    with pytest.raises(LmmsteerError, match="not fitted"):
        Ala().edit(tiny_lmm(), requests("a"), Context())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lam": -1.0}, r"method\.lam=-1\.0"),
        ({"tau": 2.0}, r"method\.tau=2\.0"),
        ({"target": "image"}, r"method\.target=image"),
        ({"target": 1.5}, r"method\.target=1\.5"),
        ({"target": True}, r"method\.target=True"),
        ({"classifier": "words"}, r"method\.classifier=words"),
        ({"classifier": "lexicon"}, "no words"),
        ({"lexicon": {"he": 1.0}}, "does not read it"),
        ({"preset": "ours"}, r"method\.preset=ours"),
        ({"preset": "code", "lam": 3.0}, "contradict"),
        ({"classes": ["man"]}, "two classes"),
        ({"classes": ["man", "man"]}, "two classes"),
        ({"beta_agg": "max"}, r"method\.beta_agg=max"),
        ({"epochs": 0}, r"method\.epochs=0"),
        ({"dropout": 1.0}, r"method\.dropout=1\.0"),
    ],
)
def test_parameters_that_cannot_be_are_refused(given, reason):
    with pytest.raises(LmmsteerError, match=reason):
        Ala(**given)


def test_a_lexicon_tells_no_three_classes_apart():
    with pytest.raises(LmmsteerError, match="two classes apart"):
        lexicon_ala(classes=["a", "b", "c"])


def test_presets_set_lambda_and_tau():
    paper, code = Ala(preset="paper"), Ala(preset="code")
    assert (paper.lam, paper.tau, code.lam, code.tau) == (2.0, 0.1, 5.0, 0.5)
    assert Ala(**asdict(code)) == code


def test_texts_of_a_file_are_learned_from_as_published_and_own_answers_faster(
    monkeypatch, tmp_path
):
    seen = []

    def spy(texts, vocab_size, classes, how):
        seen.append((how.epochs, how.lr))
        return train_text_classifier(texts, vocab_size, classes, replace(how, epochs=1))

    monkeypatch.setattr("lmmsteer.methods.ala.train_text_classifier", spy)
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "the man,man\nA woman,woman\n" * 5)
    for given in ({}, {"texts": str(file)}, {"texts": str(file), "epochs": 10}, {"lr": 0.5}):
        Ala(beta_steps=1, **given).fit(tiny_lmm(), learning())
    assert seen == [(10, 1e-3), (3, 2e-5), (10, 2e-5), (10, 0.5)]


def test_terms_that_cannot_be_are_refused():
    for terms in ([], "gender", ["gender"]):
        with pytest.raises(LmmsteerError, match=r"method\.terms"):
            AlaCross(terms=terms)
    with pytest.raises(LmmsteerError, match="no terms"):
        AlaCross().edit(tiny_lmm(), requests("a"), Context())


def test_a_fit_learns_from_the_models_own_answers_who_is_there(fitted):
    artifact, said = fitted
    meta = artifact.metadata
    assert meta["classes"] == ["woman", "man"]
    assert meta["attribute"] == "gender"
    assert meta["model_digest"] == tiny_lmm().digest
    assert meta["texts"] == 48
    assert meta["pictures"] == 12
    assert meta["text_accuracy"] == meta["picture_accuracy"] == 1.0
    beta = artifact.tensors["beta"]
    assert beta.shape == (1, tiny_lmm().vocab_size)
    assert beta[0, 200] == 1.0  # What only men's answers hold, and
    assert beta[0, 100] == -1.0  # what only women's do.
    unsaid = torch.ones(beta.shape[1], dtype=torch.bool)
    unsaid[[100, 200, *range(50, 57), *range(60, 65)]] = False
    assert beta[0, unsaid].abs().max() == 0
    assert any("48 answers" in line for line in said)
    assert any("100%" in line for line in said)


def test_the_same_fit_has_the_same_bytes(fitted):
    artifact, _ = fitted
    assert Ala(**FAST).fit(tiny_lmm(), learning()).to_bytes() == artifact.to_bytes()
    back = Artifact.from_bytes(artifact.to_bytes())
    assert back.metadata == {k: v for k, v in artifact.metadata.items() if v is not None}


def test_what_a_picture_shows_is_the_target_of_its_rows(fitted):
    artifact, _ = fitted
    asked = requests("01", "10", "01", "11")
    context = Context(GENDER, artifact, pictures=pictures())
    (rule,) = Ala(lam=1.0).edit(tiny_lmm(), asked, context).rules
    assert rule.rows.shape == (4,)
    assert (rule.rows[[0, 2]] < -0.5).all()
    assert (rule.rows[[1, 3]] > 0.5).all()
    assert rule.rows[0] == rule.rows[2]
    lmm, tensors = tiny_lmm(), artifact.tensors
    pixels = lmm.prepare(pictures()["10"]).features["pixel_values"]
    with torch.no_grad():
        seen = lmm.model.model.get_image_features(pixels).pooler_output[0].double().mean(0)
    margin = tensors["picture.coefficients"][1].double() @ seen + tensors["picture.intercepts"][1]
    assert abs(rule.rows[1] - torch.tanh(margin / 2)) < 1e-5  # 2 sigmoid(x) - 1 = tanh(x / 2)


def test_the_engines_features_are_used_where_there_are_some(fitted):
    asked = []

    def features(lmm, prepared):
        asked.append(len(prepared))
        return [torch.full((3, lmm.d_model), float(at)) for at in range(len(prepared))]

    seen = PictureFeatures(tiny_lmm(), pictures(), features)
    assert seen.of(["01", "02", "01"])[:, 0].tolist() == [0, 1, 0]
    assert seen.of(["02"])[:, 0].tolist() == [1]
    assert asked == [2]
    artifact, _ = fitted
    context = Context(GENDER, artifact, pictures=pictures(), features=features)
    assert Ala().edit(tiny_lmm(), requests("01", "02"), context).rules[0].rows.shape == (2,)


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


def test_with_a_lexicon_the_pictures_alone_are_learned_from(fitted):
    method = lexicon_ala(target="picture")
    artifact = method.fit(tiny_lmm(), learning(answer=None))
    assert set(artifact.tensors) == {"picture.coefficients", "picture.intercepts"}
    method.check(artifact, facts())
    context = Context(GENDER, artifact, pictures=pictures())
    (rule,) = method.edit(tiny_lmm(), requests("01", "10"), context).rules
    assert rule.rows[0] < -0.5 < 0.5 < rule.rows[1]
    with pytest.raises(LmmsteerError, match="no text classifier"):
        Ala().check(artifact, facts())
    method.check(fitted[0], facts())


def test_texts_of_a_file_need_no_labelled_pictures(tmp_path):
    file = tmp_path / "texts.csv"
    rows = ["text,label", *["the man is old,toxic", "She is young,fine"] * 6, "What?,other"]
    file.write_text("\n".join(rows))
    method = Ala(target=-1.0, texts=str(file), classes=["fine", "toxic"], **FAST)
    artifact = method.fit(tiny_lmm(), learning(labels={}, answer=None))
    assert artifact.metadata["texts"] == 12
    assert "picture.coefficients" not in artifact.tensors
    method.check(artifact, facts())
    with pytest.raises(LmmsteerError, match="no picture classifier"):
        replace(method, target="picture").check(artifact, facts())
    with pytest.raises(LmmsteerError, match="Fewer than two pictures"):
        replace(method, target="picture").fit(tiny_lmm(), learning(labels={}))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"labels": {}}, "0 of the two classes"),
        ({"labels": {"01": "man", "02": "man"}}, "1 of the two classes"),
        ({"labels": {"01": "man", "10": "woman"}}, "Fewer than two pictures"),
    ],
)
def test_a_data_set_that_does_not_say_who_is_who_is_refused(given, reason):
    with pytest.raises(LmmsteerError, match=reason):
        Ala(**FAST).fit(tiny_lmm(), learning(**given))


def test_classes_that_no_picture_is_labelled_with_are_refused():
    with pytest.raises(LmmsteerError, match="labelled female"):
        Ala(classes=["female", "man"]).fit(tiny_lmm(), learning())


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (["man", "woman", "man"], ["woman", "man"]),
        (["Male", "Female"], ["Female", "Male"]),
        (["toxic", "non-toxic"], ["non-toxic", "toxic"]),
        (["young", "old", "middle", "young", "old"], ["old", "young"]),
    ],
)
def test_without_names_the_two_most_frequent_labels_are_the_classes(found, wanted):
    assert classes_of(found, None) == wanted


def bad(artifact, **tensors):
    return Artifact({**artifact.tensors, **tensors}, artifact.metadata)


def test_artifacts_that_do_not_fit_are_refused(fitted):
    artifact, _ = fitted
    Ala().check(artifact, facts())
    beta = artifact.tensors["beta"]
    nan = beta.clone()
    nan[0, 3] = torch.nan
    cases = [
        (artifact, {"digest": "0" * 64}, "another model"),
        (artifact, {"tokenizer": "0" * 64}, "another tokenizer"),
        (artifact, {"vocab_size": 17}, "has 17 tokens"),
        (bad(artifact, beta=nan), {}, "`beta` that is not finite"),
        (bad(artifact, beta=beta[:, 1:]), {}, "beta of shape"),
        (bad(artifact, beta=2 * beta), {}, "not between -1 and 1"),
        (bad(artifact, **{"text.head.weight": torch.zeros(2, 5)}), {}, "text.head.weight"),
        (
            bad(artifact, **{"picture.intercepts": torch.zeros(3)}),
            {},
            "picture classifier of shape",
        ),
        (Artifact({}, {}), {}, "no text classifier"),
    ]
    for broken, known, reason in cases:
        with pytest.raises(LmmsteerError, match=reason) as error:
            Ala().check(broken, facts(**known), "out/a.safetensors")
        assert "out/a.safetensors" in error.value.what
        assert "lmmsteer fit" in error.value.mend


def test_a_picture_classifier_of_another_width_is_refused(fitted):
    broken = bad(fitted[0], **{"picture.coefficients": torch.zeros(2, 5)})
    with pytest.raises(LmmsteerError, match="reads 5 features"):
        Ala().edit(tiny_lmm(), requests("01"), Context(GENDER, broken, pictures=pictures()))


def test_the_prompt_says_what_the_picture_is_predicted_to_show():
    method = PromptPredicted()
    artifact = method.fit(tiny_lmm(), learning())
    method.check(artifact, facts())
    context = Context(replace(GENDER, name="gender_shown"), artifact, pictures=pictures())
    prompts = method.edit(tiny_lmm(), requests("01", "10"), context).prompts
    assert prompts == (
        "The gender shown of the person in the image is woman. What is {this}?",
        "The gender shown of the person in the image is man. What is {this}?",
    )
    with pytest.raises(LmmsteerError, match="no place for the prompt"):
        PromptPredicted(template="{predicted}")
    with pytest.raises(LmmsteerError, match="another model"):
        method.check(artifact, facts(digest="0" * 64))
    with pytest.raises(LmmsteerError, match="not fitted"):
        method.edit(tiny_lmm(), requests("01"), Context())


def test_the_picture_classifier_is_scikit_learns_on_standardized_features():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator) * torch.tensor([1, 9, 0.1, 3, 1, 0]) + 5
    for classes in (2, 3):
        y = [at % classes for at in range(40)]
        known = fit_picture_classifier(x, y, classes)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(x.double().numpy(), y)
        wanted = model.predict_proba(x.double().numpy())
        assert np.allclose(known.probabilities(x).numpy(), wanted, atol=1e-5)


def test_training_is_deterministic_and_leaves_the_global_generator_alone():
    texts = Texts([[1, 2, 3], [4, 5]] * 6, [0, 1] * 6, list("abcdefghijkl"))
    how = Training(epochs=10, lr=1e-3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = train_text_classifier(texts, 10, 2, how)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = train_text_classifier(texts, 10, 2, how)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert text_accuracy(first, texts) == 1.0
    other = train_text_classifier(texts, 10, 2, replace(how, seed=1))
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_fifth_of_each_class_is_held_out_and_no_group_is_torn():
    groups = [f"{at // 2}" for at in range(60)]
    classes = [at // 2 % 2 for at in range(60)]
    own, held = split(classes, groups, 0)
    assert sorted(own + held) == list(range(60))
    assert not {groups[at] for at in own} & {groups[at] for at in held}
    assert [sum(classes[at] == label for at in held) for label in (0, 1)] == [6, 6]
    assert split(classes, groups, 0) == (own, held) != split(classes, groups, 1)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_texts_are_read_from_files_of_three_kinds(tmp_path, kind):
    import json

    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"text": 'He said, "no"', "label": "toxic"}, {"text": "Ça va", "label": "fine"}]
    file = tmp_path / f"texts.{kind}"
    if kind == "csv":
        file.write_text(
            'text,label\n"He said, ""no""",toxic\nÇa va,fine\n,fine\n', encoding="utf-8"
        )
    elif kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        parquet.write_table(pa.Table.from_pylist(rows), file)
    assert read_texts(str(file)) == [(row["text"], row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.csv", None, "cannot be read"),
        ("texts.txt", "text", "no kind"),
        ("texts.csv", "text,class\na,b\n", "no column 'label'"),
        ("texts.csv", "text,label\n", "no labelled text"),
        ("texts.jsonl", "{", "cannot be read"),
        ("texts.parquet", "text,label\n", "cannot be read"),
    ],
)
def test_files_without_texts_are_refused(tmp_path, name, content, reason):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(LmmsteerError, match=reason):
        read_texts(str(file))


def test_photographs_of_any_size_have_a_feature():
    shown = photographs()
    found = PictureFeatures(tiny_lmm(), shown).of(list(shown))
    assert found.shape == (len(shown), tiny_lmm().d_model)
    alone = PictureFeatures(tiny_lmm(), shown).of(["cat"])
    assert torch.equal(found[list(shown).index("cat")], alone[0])
