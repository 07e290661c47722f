from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import digamma

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Context
from lmmsteer.methods.clip_clip import ClipClip, dropped_count
from lmmsteer.methods.dear import Dear
from lmmsteer.methods.ggss import Ggss, contexts_of, differing, frechet_mean
from lmmsteer.methods.sfid import Sfid
from tests.methods.planted import (
    MODEL,
    PLANTED,
    D,
    fitted_on,
    fitting,
    learning,
    made,
    split,
    world,
)


@pytest.fixture
def fit(monkeypatch):
    return fitting(monkeypatch)


def importances_and_probabilities(x, y, held):
    """From the trees themselves: mean decrease in impurity, and leaves' class shares."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(100, random_state=0).fit(x.astype(np.float32), y)
    total, shares = np.zeros(x.shape[1]), np.zeros((len(held), y.max() + 1))
    for estimator in forest.estimators_:
        tree, gained = estimator.tree_, np.zeros(x.shape[1])
        weights, impurity = tree.weighted_n_node_samples, tree.impurity
        for node, (left, right) in enumerate(
            zip(tree.children_left, tree.children_right, strict=True)
        ):
            if left >= 0:
                split_off = weights[left] * impurity[left] + weights[right] * impurity[right]
                gained[tree.feature[node]] += weights[node] * impurity[node] - split_off
        total += gained / gained.sum()
        for row, picture in enumerate(held):
            node = 0
            while tree.children_left[node] >= 0:
                lower = np.float32(picture[tree.feature[node]]) <= tree.threshold[node]
                node = (tree.children_left if lower else tree.children_right)[node]
            shares[row] += tree.value[node][0] / tree.value[node][0].sum()
    return total / 100, shares / 100


@pytest.mark.parametrize("classes", [2, 3])
def test_sfid_imputes_the_most_important_features_with_their_mean_where_the_label_is_unclear(
    fit, classes
):
    given = world(classes)
    method = made(Sfid)
    artifact = fit(method, given)
    x, y, held, held_y = split(given)
    importances, probabilities = importances_and_probabilities(x, y, held)
    chosen = np.argsort(-importances)[:3]
    unclear = probabilities.max(1) < method.tau
    assert PLANTED in chosen
    assert np.flatnonzero(artifact.tensors["kept"].numpy() == 0).tolist() == sorted(chosen)
    assert np.allclose(artifact.tensors["importances"], importances, atol=1e-6)
    assert artifact.metadata["unclear"] == unclear.sum() > 0
    right = (probabilities.argmax(1) == held_y).mean()
    assert artifact.metadata["forest_accuracy"] == pytest.approx(right)
    tokens = torch.from_numpy(given[0])
    found = method.edit(MODEL, [], Context(artifact=artifact)).features.apply(tokens)
    wanted = given[0].copy()
    wanted[:, :, chosen] = held[unclear].mean(0)[chosen]
    assert np.allclose(found, wanted, atol=1e-6)
    half = replace(method, alpha=0.5).edit(MODEL, [], Context(artifact=artifact)).features
    assert np.allclose(half.apply(tokens), (given[0] + wanted) / 2, atol=1e-6)


def test_sfid_with_no_unclear_picture_is_refused_and_the_tau_it_names_works(fit):
    given = world(gap=4.0)
    with pytest.raises(LmmsteerError, match=r"sure of all 12 held-out pictures") as error:
        fit(made(Sfid, tau=0.5), given)
    named = float(error.value.mend.split("method.tau=")[1].split(",")[0])
    assert fit(made(Sfid, tau=named), given).metadata["unclear"] >= 1
    with pytest.raises(LmmsteerError) as error:
        fit(made(Sfid, tau=0.5), world(gap=1000.0, each=80))
    assert "method.validation" in error.value.mend


def test_more_features_than_the_model_has_are_refused(fit):
    with pytest.raises(LmmsteerError, match=r"method\.k=11 features are more than the 10"):
        fit(made(Sfid, k=11), world())


def mutual_information(x, y, neighbours=3):
    """Ross 2014: of one feature with a class, from counts of neighbours, in nats."""
    distance = np.abs(x[:, None] - x[None])
    found = []
    for at, label in enumerate(y):
        same = np.sort(distance[at, y == label])  # The first is the picture itself.
        found.append(((y == label).sum(), (distance[at] < same[neighbours]).sum()))
    count, near = np.array(found).T
    value = digamma(len(y)) + digamma(neighbours) - digamma(count).mean() - digamma(near).mean()
    return max(value, 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_clip_clip_drops_the_features_with_the_highest_mutual_information(fit, classes):
    given = world(classes)
    method = made(ClipClip)
    artifact = fit(method, given)
    x, y, _, _ = split(given)
    shared = np.array([mutual_information(column, y) for column in x.T])
    assert np.allclose(artifact.tensors["mutual_information"], shared, atol=1e-6)
    dropped = np.argsort(-shared, kind="stable")[:3]
    assert shared.argmax() == PLANTED
    found = method.edit(MODEL, [], Context(artifact=artifact)).features.apply(
        torch.from_numpy(given[0])
    )
    wanted = given[0].copy()
    wanted[:, :, dropped] = 0
    assert np.array_equal(found, wanted)
    assert artifact.metadata["dropped"] == 3


def test_the_published_share_drops_112_of_512_features():
    assert dropped_count(0.22, 512) == 112
    assert dropped_count(0.29, 100) == 29
    assert [dropped_count(drop, 7) for drop in (0, 0.1, 1)] == [0, 0, 7]


def adam(weights, gradient, steps, rate):
    first = [np.zeros_like(x) for x in weights]
    second = [np.zeros_like(x) for x in weights]
    for step in range(steps):
        for at, g in enumerate(gradient(*weights)):
            first[at] = 0.9 * first[at] + 0.1 * g
            second[at] = 0.999 * second[at] + 0.001 * g * g
            m = first[at] / (1 - 0.9 ** (step + 1))
            v = second[at] / (1 - 0.999 ** (step + 1))
            weights[at] = weights[at] - rate * (1 - step / steps) * m / (np.sqrt(v) + 1e-12)
    return weights


def shares(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def dear_by_hand(method, x, y):
    """phi of features as they are, both networks trained by gradients written out."""
    centre, spread = x.mean(0), x.std(0)
    z, n = (x - centre) / spread, len(x)
    onehot = np.eye(y.max() + 1)[y]

    def classifying(w, b):
        off = (shares(z @ w.T + b) - onehot) / n
        return off.T @ z + 0.01 * w, off.sum(0)

    w, b = adam([np.zeros((y.max() + 1, D)), np.zeros(y.max() + 1)], classifying, 40, 0.02)

    def hiding(w1, b1, w2, b2):
        inner = z @ w1.T + b1
        hidden = np.maximum(inner, 0)
        phi = hidden @ w2.T + b2
        p = shares((z + phi) @ w.T + b)
        entropy = -(p * np.log(p)).sum(1, keepdims=True)
        of_entropy = -p * (np.log(p) + entropy)
        of_logits = -(method.w_ent * of_entropy + method.w_ce * (p - onehot)) / n
        of_phi = 2 * method.w_recon * phi / phi.size + of_logits @ w
        of_inner = (of_phi @ w2) * (inner > 0)
        return of_inner.T @ z, of_inner.sum(0), of_phi.T @ hidden, of_phi.sum(0)

    generator = torch.Generator().manual_seed(method.seed)
    w1 = torch.randn(method.width, D, generator=generator, dtype=torch.float64).numpy() / D**0.5
    start = [w1, np.zeros(method.width), np.zeros((D, method.width)), np.zeros(D)]
    w1, b1, w2, b2 = adam(start, hiding, method.steps, method.rate)

    def phi(f):
        z = (f - centre) / spread
        return spread * (np.maximum(z @ w1.T + b1, 0) @ w2.T + b2)

    def accuracy(f, y):
        return (((f - centre) / spread @ w.T + b).argmax(1) == y).mean()

    return phi, accuracy


@pytest.mark.parametrize("classes", [2, 3])
def test_dear_adds_the_residual_that_gradients_written_out_arrive_at(fit, classes):
    given = world(classes)
    method = made(Dear)
    artifact = fit(method, given)
    x, y, held, held_y = split(given)
    phi, accuracy = dear_by_hand(method, x, y)
    for alpha in (0.5, 1.0):
        edit = replace(method, alpha=alpha).edit(MODEL, [], Context(artifact=artifact))
        found = edit.features.apply(torch.from_numpy(given[0]))
        wanted = given[0] + alpha * phi(given[0].astype(np.float64))
        assert np.abs(wanted - given[0]).max() > 0.5
        assert np.allclose(found, wanted, atol=1e-4)
    assert artifact.metadata["classifier_accuracy"] == pytest.approx(accuracy(held, held_y))
    edited = accuracy(held + phi(held), held_y)
    assert artifact.metadata["classifier_accuracy_edited"] == pytest.approx(edited)


def test_dear_hides_the_label_from_its_classifier_and_with_no_such_weight_does_nothing(fit):
    hidden = fit(made(Dear, steps=200), world(gap=4.0)).metadata
    assert hidden["classifier_accuracy"] > 0.9
    assert hidden["classifier_accuracy_edited"] < 0.6
    assert fit(made(Dear, w_ce=0.0, w_ent=0.0), world()).metadata["residual_size"] == 0


def test_dear_learns_inside_a_callers_inference_mode_and_leaves_the_random_state(fit):
    outside = fit(made(Dear), world()).to_bytes()
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert fit(made(Dear), world()).to_bytes() == outside
    assert torch.equal(torch.get_rng_state(), before)
    assert fit(made(Dear, seed=1), world()).to_bytes() != outside


def to_tangent(mean, x):
    w = np.arccos(np.clip(x @ mean, -1, 1))[:, None]
    return np.where(w > 1e-9, w / np.sin(np.maximum(w, 1e-9)), 1) * (x - np.cos(w) * mean)


def centre_of(x):
    """The Frechet mean by steps of half the gradient."""
    mean = x.mean(0) / np.linalg.norm(x.mean(0))
    for _ in range(300):
        step = to_tangent(mean, x).mean(0) / 2
        size = np.linalg.norm(step)
        if size > 1e-14:
            mean = np.cos(size) * mean + np.sin(size) * step / size
    return mean


def subspace_by_hand(x, y, contexts, mean):
    """The projector onto the subspace, from eigenvectors of the tangents' scatter."""
    scatter = np.zeros((D, D))
    for context in sorted(set(contexts)):
        rows = np.array([c == context for c in contexts])
        points = np.stack([centre_of(x[rows & (y == at)]) for at in sorted(set(y[rows]))])
        tangents = to_tangent(centre_of(points), points)
        scatter += tangents.T @ tangents
    vectors = np.linalg.eigh(scatter)[1][:, -len(set(y)) + 1 :]
    vectors = vectors - np.outer(mean, mean @ vectors)
    return vectors @ np.linalg.pinv(vectors)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(("classes", "each"), [(2, 24), (3, 24), (2, 60)])
def test_ggss_finds_the_subspace_in_which_the_classes_means_differ_and_gates_by_tokens(
    fit, classes, each
):
    given = world(classes, each)
    artifact = fit(made(Ggss), given)
    x, y, _, _ = split(given)
    mean = centre_of(unit(x))
    projector = subspace_by_hand(unit(x), y, [""] * len(y), mean)
    found = artifact.tensors["subspace"].double().numpy()
    assert found.shape == (classes - 1, D)
    assert np.allclose(artifact.tensors["mean"], mean, atol=1e-6)
    assert np.allclose(found.T @ found, projector, atol=1e-5)
    assert np.allclose(found @ mean, 0, atol=1e-6)
    shown = given[0][fitted_on(given)]
    tokens = unit(shown[:: -(-len(shown) // 64)].astype(np.float64).reshape(-1, D))
    sizes = np.linalg.norm(to_tangent(mean, tokens) @ projector, axis=1)
    wanted = [np.median(sizes), sizes.std(), 5.0, 0.3]
    assert np.allclose(artifact.tensors["gate"], wanted, atol=1e-5)


def test_ggss_compares_groups_within_their_counterfactual_sets():
    draw = np.random.default_rng(5)
    scenes = 4 * draw.normal(size=(6, 1, D))
    x = scenes + 0.02 * draw.normal(size=(6, 3, D))
    x[:, 1, PLANTED] += 1.0
    x[:, 2, PLANTED + 1] += 1.0
    x = unit(x.reshape(18, D))
    y, contexts = np.tile([0, 1, 2], 6), [f"set{at // 3}" for at in range(18)]
    mean = frechet_mean(torch.from_numpy(x))
    found = differing(torch.from_numpy(x), torch.from_numpy(y), contexts, mean).numpy()
    assert np.allclose(mean, centre_of(x), atol=1e-9)
    projector = subspace_by_hand(x, y, contexts, mean.numpy())
    assert np.allclose(found.T @ found, projector, atol=1e-6)
    # Both planted features lie in it, as far as they are tangents.
    planted = np.eye(D)[[PLANTED, PLANTED + 1]]
    tangents = unit(planted - np.outer(planted @ mean.numpy(), mean.numpy()))
    assert (np.linalg.norm(tangents @ projector, axis=1) > 0.95).all()


def test_a_context_is_a_counterfactual_set_and_without_one_for_each_picture_there_is_one_context():
    sets = {"a": "scene1", "b": "scene2", "c": "scene1"}
    assert contexts_of(SimpleNamespace(groups=sets), ["a", "b", "c"]) == list(sets.values())
    assert contexts_of(SimpleNamespace(groups=sets), ["a", "d"]) == ["", ""]
    assert contexts_of(learning({}, {}), ["a", "b"]) == ["", ""]


def test_ggss_is_refused_where_the_groups_do_not_differ():
    same = torch.ones(4, D, dtype=torch.float64) / D**0.5
    with pytest.raises(LmmsteerError, match="2 classes do not differ in 1 directions"):
        differing(same, torch.tensor([0, 1, 0, 1]), [""] * 4, same[0])
