import pytest
import torch

from lmmsteer.engine.edit import Bias, Contrast, Edit, FeatureEdit, ResidualEdit
from lmmsteer.engine.hooks import ablate
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.base import Attribute, Context, Method
from lmmsteer.methods.blocklist import Blocklist
from lmmsteer.methods.compose import Compose, orthonormal_rows, together
from lmmsteer.methods.prompt import Prompt
from lmmsteer.methods.random_direction import RandomDirection
from lmmsteer.methods.steered_gradient import SteeredGradient
from lmmsteer.methods.vdd import Vdd
from tests.engine.test_hooks import orthonormal
from tests.methods.test_steered_gradient import GENDER, pictures, requests
from tests.tiny import tiny_lmm

GREEDY = Sampling(temperature=0, max_new_tokens=8)


class Fixed(Method):
    def __init__(self, edit):
        object.__setattr__(self, "made", edit)

    def edit(self, lmm, requests, context):
        return self.made


def composed(*parts, asked=None, **keys):
    context = Context(parts=tuple((part, Context(GENDER, pictures=pictures())) for part in parts))
    return Compose(methods=["unsteered"] * len(parts), **keys).edit(
        tiny_lmm(), asked or requests(), context
    )


def test_directions_of_two_methods_are_removed_as_the_span_of_both():
    generator = torch.Generator().manual_seed(0)
    first, second = orthonormal(1, 1, 32), orthonormal(2, 2, 32)
    made = together([ResidualEdit(first), ResidualEdit(second)])
    a = made.sets[0, 0]
    assert torch.allclose(a @ a.T, torch.eye(3), atol=1e-6)
    r = torch.randn(5, 32, generator=generator)
    basis = torch.linalg.qr(torch.cat([first, second]).T.double()).Q
    wanted = r.double() - r.double() @ basis @ basis.T
    assert torch.allclose(ablate(r, a).double(), wanted, atol=1e-5)
    swapped = together([ResidualEdit(second), ResidualEdit(first)]).sets[0, 0]
    assert torch.allclose(ablate(r, swapped), ablate(r, a), atol=1e-5)


def test_each_pictures_own_directions_meet_those_of_every_layer():
    per_picture = torch.stack([orthonormal(s, 1, 32) for s in (1, 2)])
    per_layer = torch.stack([torch.stack([orthonormal(10 + n, 1, 32) for n in range(3)])])
    made = together([ResidualEdit(per_picture, of=(1, 0, 1)), ResidualEdit(per_layer)])
    assert made.of == (0, 1, 0)
    assert made.sets.shape == (2, 3, 2, 32)
    for at, which in ((0, 1), (1, 0)):
        for layer in range(3):
            span = made.sets[at, layer]
            for member in (per_picture[which], per_layer[0, layer]):
                assert torch.allclose(ablate(member, span), torch.zeros(1, 32), atol=1e-6)


def test_a_direction_twice_is_removed_once_and_nothing_stays_nothing():
    a = orthonormal(1, 1, 32)
    made = together([ResidualEdit(a), ResidualEdit(a)]).sets[0, 0]
    assert torch.allclose(made[0], a[0], atol=1e-6)
    assert (made[1] == 0).all()
    assert (orthonormal_rows(torch.zeros(2, 8)) == 0).all()


def test_residual_edits_that_cannot_be_joined_are_refused():
    a, b = orthonormal(1, 1, 32), orthonormal(2, 1, 32)
    with pytest.raises(LmmsteerError, match="differ in alpha"):
        together([ResidualEdit(a, 0.5), ResidualEdit(b)])
    with pytest.raises(LmmsteerError, match="differ in scope"):
        together([ResidualEdit(a, scope=frozenset({"prompt"})), ResidualEdit(b)])
    with pytest.raises(LmmsteerError, match="not orthogonal"):
        together([ResidualEdit(a), ResidualEdit(b)], "error")
    both = orthonormal(3, 2, 32)
    assert together([ResidualEdit(both[:1]), ResidualEdit(both[1:])], "error").sets.shape == (
        1,
        1,
        2,
        32,
    )


def test_shifts_are_added():
    nothing = torch.zeros(1, 1, 1, 8)
    v = torch.randn(2, 1, 8)
    w = torch.randn(1, 3, 8)
    made = together(
        [
            ResidualEdit(nothing.expand(2, -1, -1, -1), of=(0, 1), shift=v),
            ResidualEdit(nothing.expand(-1, 3, -1, -1), shift=w),
        ]
    )
    assert torch.allclose(made.shifts, v + w)


def test_prompts_features_rules_and_contrast_are_in_the_order_given():
    one, two = Bias(torch.ones(3)), Bias(torch.zeros(3))
    scale, shift = torch.full((4,), 2.0), torch.ones(4)
    made = composed(
        Prompt(prefix="Be fair."),
        Fixed(Edit(rules=(one,), features=FeatureEdit(scale, torch.zeros(4)))),
        Prompt(suffix="Please."),
        Fixed(Edit(rules=(two,), features=FeatureEdit(torch.ones(4), shift), contrast=Contrast())),
    )
    assert made.prompts[0] == "Be fair. What is this? Please."
    assert made.rules == (one, two)
    assert made.contrast == Contrast()
    assert made.features.apply(torch.ones(1, 4)).tolist() == [[3.0] * 4]
    with pytest.raises(LmmsteerError, match="two methods with contrast"):
        composed(Vdd(), Vdd(beta=0.2))
    with pytest.raises(LmmsteerError, match="has no methods"):
        Compose().edit(tiny_lmm(), requests(), Context())


@pytest.mark.parametrize("engine", [lambda: Shared(6), lambda: Reference(5)])
def test_one_method_in_it_is_that_method_and_two_that_do_not_meet_are_both(engine):
    lmm = tiny_lmm()

    def told(edit):
        return [r.token_ids for r in engine().generate(lmm, requests(), pictures(), edit, GREEDY)]

    context = Context(GENDER, pictures=pictures())
    gradient = SteeredGradient().edit(lmm, requests(), context)
    assert told(composed(SteeredGradient())) == told(gradient)
    block = Blocklist().edit(lmm, requests(), context)
    both = composed(SteeredGradient(), Blocklist())
    assert told(both) == told(Edit(residual=gradient.residual, rules=block.rules))
    assert told(composed(Blocklist(), SteeredGradient())) == told(both)
    control = composed(SteeredGradient(), RandomDirection())
    assert control.residual.sets.shape[2] == 2


def test_a_conflict_rule_that_is_none_is_refused():
    with pytest.raises(LmmsteerError, match=r"method\.conflict"):
        Compose(conflict="fight")


def test_an_attribute_of_its_own():
    age = Attribute("age", "What is the age?", ("young", "old"))
    context = Context(
        parts=(
            (SteeredGradient(), Context(GENDER, pictures=pictures())),
            (SteeredGradient(), Context(age, pictures=pictures())),
        )
    )
    made = Compose(methods=["unsteered"] * 2).edit(tiny_lmm(), requests(), context)
    assert made.residual.sets.shape[:3] == (2, tiny_lmm().n_layers, 2)
