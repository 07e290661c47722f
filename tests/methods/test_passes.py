"""Fits killed after each of their passes, and what the next run computes again: nothing."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.methods import METHODS, answers, attributions, feature_fit
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.base import Attribute, Learning
from lmmsteer.methods.passes import Helped, Passes
from tests.methods import ala_world, planted
from tests.tiny import photographs, save_tiny_llava, tiny_lmm


class Killed(BaseException):
    """As a kill: nothing that runs can catch it."""


class Memory:
    """A shelf that outlives its fit, which is killed right after the k-th pass has been kept."""

    def __init__(self, killed_after=None):
        self.kept, self.written, self.killed_after = {}, 0, killed_after

    def read(self, name):
        return self.kept.get(name)

    def write(self, name, data):
        self.kept[name] = data
        self.written += 1
        if self.written == self.killed_after:
            raise Killed

    def over(self):
        return False


class Counted:
    """A function, and how often it was called."""

    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def __call__(self, *args, **named):
        self.calls += 1
        return self.inner(*args, **named)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Passes of a few items, so that a small fit has several."""
    monkeypatch.setattr(Passes.rows, "__defaults__", (5, None))
    monkeypatch.setattr(answers, "TOGETHER", 17)
    monkeypatch.setattr(attributions, "TOGETHER", 16)


def check(fit, learning, counted):
    """fit(learning): an artifact. counted: the calls that passes are there to save."""
    plain = fit(learning).to_bytes()
    calls, whole = counted.calls, Memory()
    assert fit(replace(learning, passes=Passes(whole))).to_bytes() == plain
    assert counted.calls == 2 * calls
    assert whole.written > 2
    for k in range(1, whole.written + 1):
        shelf = Memory(killed_after=k)
        before = counted.calls
        with pytest.raises(Killed):
            fit(replace(learning, passes=Passes(shelf)))
        assert fit(replace(learning, passes=Passes(shelf))).to_bytes() == plain
        assert shelf.written == whole.written
        assert counted.calls - before == calls
    helped(fit, learning, counted, plain)
    return whole


def helped(fit, learning, counted, plain):
    """A hand that came first leaves the first hand only what it could not do."""
    shelf, before = Memory(), counted.calls
    calls = []
    for hand in (2, 1, 0):
        passes = Passes(shelf, hand, hands=3)
        try:
            assert fit(replace(learning, passes=passes)).to_bytes() == plain
        except Helped:
            assert hand
        calls.append(counted.calls - before)
        before = counted.calls
    fit(replace(learning, passes=Passes()))
    assert calls[0] > 0
    assert calls[1] == 0  # It has found all done that the one before it could do.
    assert sum(calls) == counted.calls - before


@pytest.mark.parametrize("method_class", planted.METHODS)
def test_a_fit_of_features_looks_at_no_picture_twice(monkeypatch, method_class):
    monkeypatch.setattr(Passes.rows, "__defaults__", (9, None))
    tokens, learning = planted.world(each=12)
    images = {picture.tobytes(): at for at, picture in enumerate(learning.pictures.values())}
    looked = Counted(
        lambda _, shown: [torch.from_numpy(tokens[images[p.tobytes()]]) for p in shown]
    )
    monkeypatch.setattr(feature_fit, "token_features", looked)
    method = planted.made(method_class)
    check(lambda given: method.fit(planted.MODEL, given), learning, looked)


def test_ala_asks_no_question_trains_no_epoch_and_attributes_no_text_twice(monkeypatch):
    trained = Counted(torch.nn.functional.cross_entropy)
    monkeypatch.setattr("lmmsteer.methods.ala_training.cross_entropy", trained)
    asked = Counted(ala_world.answers)
    attributed = Counted(attributions.integrated_gradients)
    monkeypatch.setattr(attributions, "integrated_gradients", attributed)
    method = Ala(epochs=2, lr=1e-3, batch=16, beta_steps=2)
    learning = ala_world.learning(answer=asked)
    whole = check(lambda given: method.fit(tiny_lmm(), given), learning, asked)
    # 12 pictures by 5; 48 answers by 17; 2 epochs; 48 texts by 16, in one file each.
    assert whole.written == 3 + 3 + 2 + 3
    assert len(whole.kept) == 3 + 3 + 1 + 1
    for counted, once in ((trained, 2 * 3), (attributed, 3)):  # 39 texts by 16; 3 batches.
        assert counted.calls == once * (2 + whole.written + 2)  # Alone, killed, helped, alone.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("three"), n_layers=3)


@pytest.mark.parametrize(
    ("position", "passes"),
    [("prompt_last", 2 * 2 + 2 * 2), ("response_mean", 2 * 2 + 2 * 2 + 2 * 1)],
)
def test_a_direction_is_tried_once_at_every_layer_and_strength(folder, position, passes):
    from lmmsteer.models.lmm import load

    lmm, engine = load("tiny", str(folder)), Reference()
    edited = Counted(engine.edited)

    def answer(lmm, requests, pictures, edit, max_new_tokens, temperature=0.0):
        sampling = Sampling(temperature, max_new_tokens=4)
        return engine.generate(lmm, requests, pictures, edit, sampling)

    pictures = {
        f"{name}-{angle}": picture.resize((40, 40)).rotate(angle)
        for angle in (0, 40)
        for name, picture in photographs().items()
    }
    words = Attribute("gender", "What is the gender?", ("man", "person", "is", "a"))
    learning = Learning(pictures, words, edited, answer)
    method = METHODS["steered_dataset"](
        held_out=2, kl_max=1e9, drop_last=0.0, alphas=[0.5, 1.0], position=position
    )
    whole = check(lambda given: method.fit(lmm, given), learning, edited)
    # 6 pairs by 5, of both sets; three layers at two strengths; answers of both sets.
    assert whole.written == passes + 2


def test_a_pass_gives_the_same_tensors_whether_computed_or_read():
    found = {"a": torch.randn(4, 6).T, "b": torch.tensor([2**40]), "c": torch.tensor(0.1).double()}
    shelf = Memory()
    first = Passes(shelf).once("x", lambda: found)
    again = Passes(shelf).once("x", pytest.fail)
    alone = Passes().once("x", lambda: found)
    assert list(first) == list(again) == list(alone) == ["a", "b", "c"]
    for name, x in found.items():
        for made in (first[name], again[name], alone[name]):
            assert torch.equal(made, x)
            assert made.dtype == x.dtype
            assert made.is_contiguous()
            assert made.data_ptr() != x.data_ptr()


def test_steps_go_on_from_the_last_state_that_was_kept():
    shelf, done = Memory(killed_after=3), []

    def step(state, at):
        done.append(at)
        return {"x": 10 * state["x"] + at}

    def run():
        return Passes(shelf).steps("digits", lambda: {"x": torch.tensor(7)}, step, 5)

    with pytest.raises(Killed):
        run()
    assert run()["x"] == 701234
    assert run()["x"] == 701234
    assert done == [0, 1, 2, 3, 4]
    assert list(shelf.kept) == ["digits"]


def test_hands_begin_apart_and_meet_where_the_others_have_been():
    shelf, names = Memory(), [f"n-{at}" for at in range(6)]
    done = {hand: [] for hand in range(3)}

    def hand(which):
        def compute(at):
            done[which].append(at)
            return {"x": torch.tensor(at)}

        heard = []
        found = Passes(shelf, which, 3).each(names, compute, heard.append)
        assert sorted(heard) == list(range(6))
        assert [int(one["x"]) for one in found] == list(range(6))

    shelf.kept.update(
        {f"n-{at}": save({"x": torch.tensor(at)}) for at in (3, 5)}  # By others, meanwhile.
    )
    hand(1)
    hand(0)
    hand(2)
    assert done == {1: [2, 4, 0, 1], 0: [], 2: []}


def test_a_helping_hand_stops_where_it_could_only_wait_and_when_the_fit_is_over():
    shelf = Memory()
    with pytest.raises(Helped):
        Passes(shelf, 1, 2).once("x", pytest.fail)
    with pytest.raises(Helped):
        Passes(shelf, 1, 2).steps("y", pytest.fail, pytest.fail, 2)
    Passes(shelf).once("x", lambda: {"x": torch.ones(1)})
    assert Passes(shelf, 1, 2).once("x", pytest.fail)["x"] == 1
    shelf.over = lambda: True
    with pytest.raises(Helped):
        Passes(shelf, 1, 2).each(["a", "b"], pytest.fail)
    assert list(shelf.kept) == ["x"]


def test_the_rows_there_are_told_whoever_computed_them():
    shelf, heard = Memory(), []
    for _ in range(2):
        rows = Passes(shelf).rows(
            "x", range(5), lambda some: torch.tensor([[at] for at in some]), 2, heard.append
        )
        assert rows[:, 0].tolist() == list(range(5))
    assert heard == [2, 4, 5] * 2


def test_no_steps_are_no_pass():
    assert Passes().steps("none", lambda: {"x": torch.ones(1)}, pytest.fail, 0)["x"] == 1
