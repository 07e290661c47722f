import pytest
import torch

from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods import METHODS
from lmmsteer.methods.artifact import check
from lmmsteer.methods.base import Attribute, Context, Learning
from lmmsteer.methods.directions import Candidate, kl_divergence, log_odds, select
from lmmsteer.methods.words import mentions, spellings
from lmmsteer.models.lmm import load
from tests.engine import oracle
from tests.tiny import photographs, save_tiny_llava

LAYERS, HELD_OUT = 5, 3
GENDER = Attribute("gender", "What is the gender of the person?", ("man", "person", "is", "a"))
PICTURES = {
    f"{name}-{angle}": picture.resize((40, 40)).rotate(angle)
    for angle in (0, 40, 80)
    for name, picture in photographs().items()
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("five"), n_layers=LAYERS)


@pytest.fixture(scope="module")
def lmm(folder):
    return load("tiny", str(folder))


def answer(lmm, requests, pictures, edit, max_new_tokens, temperature=0.0):
    sampling = Sampling(temperature=0, max_new_tokens=max_new_tokens)
    return Reference().generate(lmm, requests, pictures, edit, sampling)


def fit(lmm, **parameters):
    method = METHODS["steered_dataset"](**{"held_out": HELD_OUT, "kl_max": 1e9, **parameters})
    return method, method.fit(lmm, Learning(PICTURES, GENDER, Reference().edited, answer))


def last_states(model, processor, prompt, picture):
    """Residuals before every block and after the last, at the last position."""
    out = model(**oracle.inputs(processor, prompt, picture), output_hidden_states=True)
    return torch.stack([h[0, -1] for h in out.hidden_states])


@torch.no_grad()
def test_candidates_are_the_difference_in_means_of_block_outputs(folder, lmm):
    method, artifact = fit(lmm)
    model, processor = oracle.plain(folder)
    fit_on = list(PICTURES.values())[:-HELD_OUT]
    asked = [last_states(model, processor, GENDER.question, p) for p in fit_on]
    neutral = [
        last_states(model, processor, method.neutral[at % len(method.neutral)], p)
        for at, p in enumerate(fit_on)
    ]
    difference = (torch.stack(asked) - torch.stack(neutral)).mean(0)
    # Block l's output is block l+1's input; the last entry stands behind the final norm.
    expected, found = difference[1:LAYERS], artifact.tensors["candidates"][: LAYERS - 1]
    assert torch.allclose(found, expected, atol=1e-3)
    chosen = artifact.tensors["candidates"][artifact.metadata["layer"]]
    assert torch.allclose(artifact.tensors["directions"][0], chosen / chosen.norm(), atol=1e-6)
    mean = torch.stack(neutral).mean(0)[:LAYERS]
    assert torch.allclose(artifact.tensors["mean"], mean, atol=1e-3)


@torch.no_grad()
def test_scores_are_those_of_a_model_with_orthogonalised_weights(folder, lmm):
    method, artifact = fit(lmm)
    targets = spellings(lmm.tokenizer, GENDER.words)
    held_out = list(PICTURES.values())[-HELD_OUT:]
    neutral = [method.neutral[(9 + at) % len(method.neutral)] for at in range(HELD_OUT)]

    def logits(model, processor, prompts):
        batches = [oracle.inputs(processor, *pair) for pair in zip(prompts, held_out, strict=True)]
        return torch.stack([model(**batch).logits[0, -1].double() for batch in batches])

    plain = oracle.plain(folder)
    base = logits(*plain, neutral)
    for row, candidate in zip(
        artifact.metadata["scores"], artifact.tensors["candidates"], strict=True
    ):
        model, processor = oracle.plain(folder)
        oracle.orthogonalise(model, (candidate / candidate.norm())[None])
        p = logits(model, processor, [GENDER.question] * HELD_OUT).softmax(-1)[:, targets].sum(-1)
        assert row["score"] == pytest.approx(float((p / (1 - p)).log().mean()), abs=0.01)
        q = logits(model, processor, neutral).log_softmax(-1)
        kl = (base.softmax(-1) * (base.log_softmax(-1) - q)).sum(-1).mean()
        assert row["kl"] == pytest.approx(float(kl), rel=0.01)


def test_the_lowest_score_outside_the_last_layers_is_taken_and_all_are_written_down(lmm):
    _, artifact = fit(lmm)
    found = artifact.metadata
    assert [row["layer"] for row in found["scores"]] == list(range(LAYERS))
    refused = [row["layer"] for row in found["scores"] if row["refused"]]
    assert refused == [4]
    allowed = [row for row in found["scores"] if not row["refused"]]
    assert found["layer"] == min(allowed, key=lambda row: row["score"])["layer"]
    for key in ("model", "model_digest", "attribute", "position", "words", "data_digest"):
        assert found[key]
    check(artifact, lmm.d_model, lmm.n_layers, lmm.digest, lmm.name)


def test_a_fit_done_again_is_the_same_to_the_byte_and_other_pictures_are_another_fit(lmm):
    data = fit(lmm)[1].to_bytes()
    assert fit(lmm)[1].to_bytes() == data
    assert fit(lmm, images=5)[1].metadata["data_digest"] not in data.decode(errors="ignore")


def test_a_fit_leaves_the_model_as_it_was(lmm):
    points = [point.module for point in lmm.residual_points()]
    before = {name: value.clone() for name, value in lmm.model.state_dict().items()}
    fit(lmm)
    after = lmm.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in points)


def test_when_no_layer_passes_the_guards_nothing_is_written_and_the_reasons_are_named(lmm):
    with pytest.raises(LmmsteerError, match=r"kl_max=1e-06\): layer 0: KL on neutral") as error:
        fit(lmm, kl_max=1e-6)
    assert "method.kl_max" in error.value.mend


@torch.no_grad()
def test_the_mentions_score_is_the_count_in_greedy_answers(folder, lmm):
    method, artifact = fit(lmm, score="mentions")
    row = artifact.metadata["scores"][1]
    direction = artifact.tensors["candidates"][1]
    model, processor = oracle.plain(folder)
    count = 0
    for before in (True, False):
        if not before:
            oracle.hook_ablation(model, (direction / direction.norm())[None])
        count = 0
        for at, picture in enumerate(list(PICTURES.values())[-HELD_OUT:]):
            prompt = method.open_prompts[at % len(method.open_prompts)]
            tokens = oracle.greedy(model, processor, prompt, picture, 64, (2,))
            text = processor.tokenizer.decode(tokens, skip_special_tokens=True)
            count += mentions(text, GENDER.words)
        found = artifact.metadata["score_before"] if before else row["score"]
        assert found == pytest.approx(count / HELD_OUT)


def test_too_few_pictures_or_words_without_a_token_are_refused(lmm):
    with pytest.raises(LmmsteerError, match="12 readable pictures are too few"):
        fit(lmm, held_out=11)
    with pytest.raises(
        LmmsteerError, match="No single token of tiny spells any of the words: xylo"
    ):
        fit(lmm, words=["xylophone"])


def held_out_log_odds(model, processor, lmm):
    targets = spellings(lmm.tokenizer, GENDER.words)
    found = []
    for picture in list(PICTURES.values())[-HELD_OUT:]:
        batch = oracle.inputs(processor, GENDER.question, picture)
        p = model(**batch).logits[0, -1].double().softmax(-1)[targets].sum()
        found.append((p / (1 - p)).log())
    return float(torch.stack(found).mean())


@torch.no_grad()
def test_every_strength_is_scored_and_alpha_null_uses_the_lowest_allowed(folder, lmm):
    method, artifact = fit(lmm, alphas=[0.25, 1.0], alpha=None)
    about = artifact.metadata
    tried = [(row["layer"], row["alpha"]) for row in about["scores"]]
    assert tried == [(layer, alpha) for layer in range(LAYERS) for alpha in (0.25, 1.0)]
    allowed = [row for row in about["scores"] if not row["refused"]]
    best = min(allowed, key=lambda row: row["score"])
    assert (about["layer"], about["alpha"]) == (best["layer"], best["alpha"])
    assert about["score_after"] == best["score"]
    edit = method.edit(lmm, [], Context(artifact=artifact))
    assert edit.residual.alpha == best["alpha"]

    candidate = artifact.tensors["candidates"][1]
    model, processor = oracle.plain(folder)
    # 1 - 0.25 a a^T, as a projection of a shorter direction.
    oracle.hook_ablation(model, (0.5 * candidate / candidate.norm())[None])
    row = about["scores"][tried.index((1, 0.25))]
    assert row["score"] == pytest.approx(held_out_log_odds(model, processor, lmm), abs=0.01)


def test_a_guard_can_leave_nothing_but_a_lower_strength(lmm):
    rows = fit(lmm, alphas=[0.05, 1.0])[1].metadata["scores"]
    weak = max(row["kl"] for row in rows if row["alpha"] == 0.05)
    strong = min(row["kl"] for row in rows if row["alpha"] == 1.0)
    assert weak < strong
    _, artifact = fit(lmm, alphas=[0.05, 1.0], kl_max=(weak + strong) / 2)
    assert artifact.metadata["alpha"] == 0.05


@torch.no_grad()
def test_candidates_judged_as_additions_are_added_behind_their_block(folder, lmm):
    method, artifact = fit(lmm, judged_as="add", alphas=[-2.0], mode="add", alpha=None)
    row = artifact.metadata["scores"][2]
    candidate = artifact.tensors["candidates"][2]
    model, processor = oracle.plain(folder)

    def after(_, __, out):
        if isinstance(out, tuple):
            return (out[0] - 2 * candidate, *out[1:])
        return out - 2 * candidate

    model.model.language_model.layers[2].register_forward_hook(after)
    assert row["score"] == pytest.approx(held_out_log_odds(model, processor, lmm), abs=0.01)
    assert artifact.metadata["scores"][-1]["refused"] == "no block reads it"
    layer = artifact.metadata["layer"]
    shift = method.edit(lmm, [], Context(artifact=artifact)).residual.shifts[0, layer + 1]
    assert torch.allclose(shift, -2 * artifact.tensors["candidates"][layer], atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"extraction": "pca"},
        {"extraction": "probe"},
        {"position": "prompt_mean"},
        {"position": "response_mean"},
    ],
)
def test_every_extraction_and_position_makes_directions_of_its_own(lmm, other):
    _, artifact = fit(lmm, images=5, **other)
    check(artifact, lmm.d_model, lmm.n_layers, lmm.digest, lmm.name)
    key, value = next(iter(other.items()))
    assert artifact.metadata[key] == value
    candidates = fit(lmm, images=5)[1].tensors["candidates"]
    assert not torch.allclose(artifact.tensors["candidates"], candidates, rtol=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": "eoi"},
        {"score": "vibes"},
        {"extraction": "sae"},
        {"judged_as": "rotate"},
        {"alphas": []},
        {"alphas": [1.5]},
    ],
)
def test_an_unknown_position_or_score_or_strength_is_refused(wrong):
    with pytest.raises(LmmsteerError, match=f"method.{next(iter(wrong))}="):
        METHODS["steered_dataset"](**wrong)


def test_degenerate_candidates_are_never_taken():
    found = [
        Candidate(0, refused="zero"),
        Candidate(1, refused="not finite"),
        Candidate(2, score=-1.0, kl=0.01),
        Candidate(3, score=-9.0, kl=5.0, refused="KL on neutral pairs"),
    ]
    assert select(found, 0.1).layer == 2


def test_log_odds_and_kl_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    assert log_odds(logits, [1, 2]) == pytest.approx(float(torch.tensor(0.375 / 0.625).log()))
    other = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    assert kl_divergence(logits, other) == pytest.approx(0.25 * float(torch.tensor(2.0).log()))
    assert kl_divergence(logits, logits) == 0
