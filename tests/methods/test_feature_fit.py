from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from lmmsteer.engine.edit import Edit, FeatureEdit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import feature_fit
from lmmsteer.methods.artifact import Artifact, ModelFacts
from lmmsteer.methods.base import Context
from lmmsteer.methods.clip_clip import ClipClip
from lmmsteer.methods.dear import Dear
from lmmsteer.methods.ggss import Ggss
from lmmsteer.methods.sfid import Sfid
from lmmsteer.models.decoding import DECODING
from lmmsteer.schema import Request, row_id
from tests.engine import oracle
from tests.engine.test_feature_rules import turned
from tests.methods.planted import METHODS, MODEL, D, fitting, learning, made, split, world
from tests.tiny import photographs, tiny_llava, tiny_lmm
from tests.tiny_families import tiny_family_lmm

CONF = Path(__file__).parents[2] / "conf" / "method"
FACTS = ModelFacts("planted", "beef", D, 2, 100, "0")


@pytest.fixture
def fit(monkeypatch):
    return fitting(monkeypatch)


@pytest.mark.parametrize("method_class", METHODS)
def test_a_yaml_has_the_parameters_with_their_defaults(method_class):
    shown = yaml.safe_load((CONF / f"{method_class().name}.yaml").read_text())
    assert next(iter(shown)) == "name"
    assert shown == asdict(method_class())
    typed = OmegaConf.merge(OmegaConf.structured(method_class), shown)
    assert OmegaConf.to_container(typed) == shown


@pytest.mark.parametrize("method_class", METHODS)
def test_the_same_pictures_give_the_same_bytes_and_other_labels_another_fit(fit, method_class):
    method = made(method_class)
    data = fit(method, world()).to_bytes()
    assert fit(replace(method, alpha=0.5), world()).to_bytes() == data
    tokens, learned = world()
    swapped = dict(zip(learned.labels, [*list(learned.labels.values())[1:], "man"], strict=True))
    other = fit(method, (tokens, replace(learned, labels=swapped)))
    assert other.metadata["data_digest"] not in data.decode(errors="ignore")
    kept = {k: v for k, v in fit(method, world()).metadata.items() if v is not None}
    assert Artifact.from_bytes(data).metadata == kept


@pytest.mark.parametrize("method_class", METHODS)
def test_the_metadata_says_where_it_is_from_and_how_well_the_label_is_read(fit, method_class):
    lines = []
    tokens, learned = world(3)
    found = fit(made(method_class), (tokens, replace(learned, say=lines.append))).metadata
    assert found["classes"] == ["man", "nonbinary", "woman"]
    assert found["counts"] == dict.fromkeys(found["classes"], 18)
    assert found["held_out"] == dict.fromkeys(found["classes"], 6)
    assert (found["model"], found["model_digest"], found["d_model"]) == ("planted", "beef", D)
    assert (found["attribute"], found["method"]) == ("gender", method_class().name)
    assert found["majority"] == pytest.approx(1 / 3)
    assert found["accuracy"] > 0.5
    assert "picture features: 72 of 72" in lines


def test_the_probes_accuracy_is_that_of_a_ridge_classifier(fit):
    from sklearn.linear_model import RidgeClassifier

    given = world(gap=1.0)
    found = fit(made(ClipClip), given).metadata
    x, y, held, held_y = split(given)
    for key, scale in (("accuracy", np.ones(D)), ("accuracy_edited", None)):
        if scale is None:
            scale = fit(made(ClipClip), given).tensors["kept"].numpy()
        spread = np.where(scale > 0, x.std(0), 1)
        probe = RidgeClassifier(alpha=1.0).fit((x - x.mean(0)) * scale / spread, y)
        wanted = probe.score((held - x.mean(0)) * scale / spread, held_y)
        assert found[key] == pytest.approx(wanted)
    assert found["accuracy_edited"] < found["accuracy"]


@pytest.mark.parametrize("method_class", METHODS)
def test_only_the_first_labelled_pictures_are_looked_at(fit, method_class):
    tokens, learned = world()
    first = [image_id for image_id in learned.pictures if image_id != "p0"][:30]
    some = {image_id: learned.labels[image_id] for image_id in learned.labels if image_id != "p0"}
    less = {image_id: learned.pictures[image_id] for image_id in first}
    found = fit(made(method_class, images=30), (tokens, replace(learned, labels=some)))
    alone = fit(made(method_class), (tokens, replace(learned, pictures=less, labels=some)))
    assert found.to_bytes() == alone.to_bytes()
    assert made(method_class, images=30).pictures_needed == 30


@pytest.mark.parametrize("method_class", METHODS)
def test_a_change_of_nothing_is_the_empty_edit(fit, method_class):
    artifact = fit(made(method_class), world())
    method = made(method_class, alpha=0.0)
    assert method.edit(MODEL, [], Context(artifact=artifact)) == Edit()
    for nothing in (Sfid(k=0), ClipClip(drop=0.0)):
        learned = fit(nothing, world(gap=1000.0))
        assert nothing.edit(MODEL, [], Context(artifact=learned)) == Edit()


@pytest.mark.parametrize("method_class", METHODS)
def test_labels_that_teach_nothing_are_refused_before_any_picture_is_shown(fit, method_class):
    _, learned = world()
    method = made(method_class)

    def refused(labels, match):
        with pytest.raises(LmmsteerError, match=match) as error:
            method.fit(MODEL, replace(learned, labels=labels))
        assert error.value.mend

    refused({}, "None of the 48 readable pictures has a label for gender")
    refused({"elsewhere": "man"}, "None of the 48")
    refused(dict.fromkeys(learned.labels, "man"), "All 48 labelled pictures are of one class, man")
    lone = {**dict.fromkeys(learned.labels, "man"), "p0": "woman", "p1": "woman"}
    refused(lone, "2 labelled pictures of class woman are too few to fit on: 1 of them")


def test_features_that_are_not_finite_are_refused_by_the_pictures_name(fit):
    tokens, learned = world()
    tokens[7, 1, 2] = np.inf
    with pytest.raises(LmmsteerError, match="The features of p7 are not finite"):
        fit(made(ClipClip), (tokens, learned))


@pytest.mark.parametrize(
    ("method_class", "wrong"),
    [
        *((each, {"alpha": -0.5}) for each in METHODS),
        *((each, {"alpha": 2.5}) for each in METHODS),
        *((each, {"validation": 0.0}) for each in METHODS),
        *((each, {"validation": 1.0}) for each in METHODS),
        *((each, {"images": 3}) for each in METHODS),
        (Sfid, {"k": -1}),
        (Sfid, {"tau": 1.5}),
        (Sfid, {"tau": float("nan")}),
        (ClipClip, {"drop": 1.1}),
        (Dear, {"w_ce": -1.0}),
        (Dear, {"rate": float("inf")}),
        (Dear, {"steps": 0}),
        (Ggss, {"g0": 1.5}),
        (Ggss, {"kappa": -1.0}),
    ],
)
def test_parameters_out_of_their_range_are_refused(method_class, wrong):
    with pytest.raises(LmmsteerError, match=rf"method\.{next(iter(wrong))}=") as error:
        method_class(**wrong)
    assert "Set method." in error.value.mend


@pytest.mark.parametrize("method_class", METHODS)
def test_an_artifact_that_does_not_fit_is_refused_with_the_reason(fit, method_class):
    method, where = made(method_class), "method.artifact=f.safetensors"
    artifact = fit(method, world())
    method.check(artifact, FACTS, where)
    method.check(Artifact(artifact.tensors), FACTS, where)
    first, *_ = method.shapes
    *_, last = method.shapes

    def refused(match, facts=FACTS, **changed):
        tensors = {**artifact.tensors, **changed}
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        with pytest.raises(LmmsteerError, match=match) as error:
            method.check(Artifact(tensors, artifact.metadata), facts, where)
        assert error.value.what.startswith(where)
        assert f"lmmsteer fit method={method.name}" in error.value.mend

    refused(
        r"another model \(planted, weights beef\), not on other",
        replace(FACTS, digest="1", name="other"),
    )
    refused(f"no tensor `{first}`, which method={method.name} needs", **{first: None})
    refused(r"of shape \[.*\], and planted needs \[", replace(FACTS, d_model=11))
    refused(r"of shape \[2, 2, 2\]", **{last: torch.zeros(2, 2, 2)})
    broken = artifact.tensors[first].clone().fill_(torch.nan)
    refused(f"values of `{first}` that are not finite", **{first: broken})


@pytest.mark.parametrize("method_class", METHODS)
def test_it_says_what_it_touches_and_that_it_must_be_fitted(method_class):
    method = method_class()
    assert method.touches == {"features"}
    assert method.needs_attribute
    assert method.needs_artifact
    assert method.fitted
    with pytest.raises(LmmsteerError, match=f"method={method.name} was asked for without"):
        method.edit(MODEL, [], Context())


@cache
def album():
    """Photographs, upright and turned, each smaller; two of the four are said to be of women."""
    pictures = {
        f"{name}-{angle}-{mirrored}": picture.resize((40, 40)).rotate(angle).transpose(mirrored)
        for angle in (0, 90, 180, 270)
        for mirrored in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
        for name, picture in photographs().items()
    }
    names = ("man", "woman")
    return learning(pictures, {i: names[i.startswith(("cat", "coffee"))] for i in pictures})


ON_TINY = {
    Sfid: {"k": 8, "tau": 1.0},
    ClipClip: {"drop": 0.3},
    Dear: {"width": 8, "steps": 60, "rate": 0.02, "w_ce": 0.5},
    Ggss: {"alpha": 1.5},
}


@cache
def on_tiny(method_class):
    method = method_class(**ON_TINY[method_class])
    return method, method.fit(tiny_lmm(), album())


@torch.no_grad()
def projected(picture):
    """What plain transformers' projector says of a picture, [tokens, d_model]."""
    model, processor = oracle.plain(tiny_llava())
    found = []
    handle = model.model.multi_modal_projector.register_forward_hook(
        lambda _, __, out: found.append(out)
    )
    model(**oracle.inputs(processor, "What?", picture))
    handle.remove()
    return found[0][0]


def test_pooled_features_are_the_mean_over_tokens_of_what_the_projector_says():
    found = feature_fit.pool(tiny_lmm(), album(), 20, 0.25)
    assert found.features.dtype == torch.float32
    assert list(found.image_ids) == list(album().pictures)[:20]
    for at in (0, 9, 19):
        wanted = projected(album().pictures[found.image_ids[at]]).mean(0)
        assert torch.allclose(found.features[at], wanted, atol=1e-5)


def test_padding_tiles_are_left_out_of_the_mean():
    lmm = tiny_family_lmm("mllama")
    one, four = (photographs()[name] for name in ("cat", "astronaut"))
    tokens = feature_fit.token_features(lmm, [one, four])
    assert 4 * len(tokens[0]) == len(tokens[1])
    alone = DECODING["mllama"].features(lmm, [lmm.prepare(one)])[0]
    assert torch.equal(tokens[0], alone[: len(tokens[0])].float())


@pytest.mark.parametrize("name", ["qwen2_5_vl", "paligemma", "clipcap"])
def test_every_family_with_a_projector_shows_features_as_wide_as_its_residual_stream(name):
    lmm = tiny_family_lmm(name)
    for tokens in feature_fit.token_features(lmm, list(photographs().values())):
        assert tokens.shape[1] == lmm.d_model
        assert tokens.dtype == torch.float32


def test_a_family_without_a_projector_is_refused():
    with pytest.raises(LmmsteerError, match="blip models have no projector"):
        ClipClip().fit(tiny_family_lmm("blip"), album())


def by_hand(method, tensors, features):
    """What a method makes of tokens, in float64 from its artifact's tensors. [tokens, d_model]."""
    f = features.double().numpy()
    given = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    if "kept" in given:
        return f * given["kept"] + given.get("imputed", 0)
    if "w1" in given:
        inner = np.maximum(f @ given["w1"].T + given["b1"], 0)
        return f + inner @ given["w2"].T + given["b2"]
    median, spread, kappa, floor = given["gate"]
    rule = SimpleNamespace(
        mean=tensors["mean"],
        subspace=tensors["subspace"],
        median=median,
        spread=spread,
        kappa=kappa,
        floor=floor,
        alpha=method.alpha,
    )
    return np.stack([turned(rule, token) for token in f])


@pytest.mark.parametrize("method_class", METHODS)
def test_features_are_edited_as_numbers_by_hand_say(method_class):
    method, artifact = on_tiny(method_class)
    lmm = tiny_lmm()
    rule = method.edit(lmm, [], Context(artifact=artifact)).features
    for picture in photographs().values():
        features = DECODING["llava"].features(lmm, [lmm.prepare(picture)])[0]
        wanted = by_hand(method, artifact.tensors, features)
        found = rule.apply(features).numpy()
        assert np.allclose(found, wanted, atol=1e-4, rtol=1e-4)
        assert not np.allclose(found, features.numpy(), atol=1e-2)


@pytest.mark.parametrize("engine", [Reference, Shared])
@pytest.mark.parametrize("method_class", METHODS)
def test_answers_are_those_of_plain_transformers_whose_projector_is_edited(method_class, engine):
    method, artifact = on_tiny(method_class)
    prompts = ("What?", "Describe the image in as much detail as possible.")
    rows = [
        Request(row_id(name, None, prompt, 0), name, str(at), prompt, 0)
        for name in ("astronaut", "cat", "coffee")
        for at, prompt in enumerate(prompts)
    ]
    model, processor = oracle.plain(tiny_llava())

    def answers():
        return [
            oracle.greedy(model, processor, r.prompt, photographs()[r.image_id], 10) for r in rows
        ]

    unedited = answers()
    handle = model.model.multi_modal_projector.register_forward_hook(
        lambda _, __, out: torch.from_numpy(by_hand(method, artifact.tensors, out[0]))[None].float()
    )
    wanted = answers()
    handle.remove()
    edit = method.edit(tiny_lmm(), rows, Context(artifact=artifact))
    lmm = replace(tiny_lmm(), eos_ids=())
    sampling = Sampling(temperature=0, max_new_tokens=10)
    found = list(engine(3).generate(lmm, rows, photographs(), edit, sampling))
    assert [r.error for r in found] == [None] * len(rows)
    assert [r.token_ids for r in found] == wanted
    assert wanted != unedited


def test_a_feature_edit_of_an_artifact_is_data(fit):
    edit = made(Sfid).edit(MODEL, [], Context(artifact=fit(made(Sfid), world())))
    assert isinstance(edit.features, FeatureEdit)
    assert (edit.residual, edit.prompts, edit.contrast, edit.rules) == (None, None, None, ())
