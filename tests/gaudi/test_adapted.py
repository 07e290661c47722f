"""optimum-habana's own LLaVA and Llama-3.2-Vision against transformers', token for token."""

import json
import subprocess
import sys

import pytest

from lmmsteer.errors import LmmsteerError
from lmmsteer.models import gaudi
from lmmsteer.models.families import FAMILIES
from tests.gaudi import cases

NAMES = ("llava", "mllama", "qwen2_5_vl")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, stand_in):
    """The models' folder, and by family what plain transformers answers."""
    root = tmp_path_factory.mktemp("gaudi")
    made = {name: cases.opened(name, cases.save(name, root / name)) for name in NAMES}
    return root, {name: cases.expected(lmm) for name, lmm in made.items()}


@pytest.fixture(scope="module", params=["lazy", "eager"])
def told(request, plain):
    root, expected = plain
    command = [sys.executable, "-W", "ignore", "-m", "tests.gaudi.adapted", root, request.param]
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return request.param, json.loads((root / "answers.json").read_text()), expected, root


@pytest.mark.parametrize("name", NAMES)
def test_adapted_models_say_what_transformers_says_steered_and_not_greedy_and_sampled(told, name):
    _, found, expected, _ = told
    assert found[name]["class"].startswith("Gaudi")
    assert {case: one[0] for case, one in found[name]["of"].items()} == expected[name]
    assert len({str(tokens) for tokens in expected[name].values()}) == len(expected[name])


@pytest.mark.parametrize("name", NAMES)
def test_directions_are_removed_at_three_places_of_every_adapted_block(told, name):
    _, found, _, _ = told
    assert found[name]["placed"] == 3 * found[name]["layers"]


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_and_a_step_are_one_shape_each_whatever_the_rows(told, name):
    """Eighteen rows of three lengths, in batches of 8, 8 and 2: two graphs, and no third later."""
    mode, found, _, _ = told
    compiled, _, warmed = ([one[n] for one in found[name]["of"].values()] for n in (1, 2, 3))
    if mode == "eager":
        assert not any(compiled)
        return
    assert all(one[2] == 2 for one in found[name]["of"].values())
    # Greedy unsteered; sampled and other directions replay; rules are no part of the recording.
    assert compiled == [2, 0, 2, 0, 0, 0, 2, 0]
    assert warmed == compiled  # before the first answer


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_rounding_alone_tells_answers_apart(told, name):
    _, found, _, root = told
    cases.check_halves(name, root / name, found[name]["halves"])


def test_families_whose_adapted_models_answer_otherwise_are_refused():
    for name in set(FAMILIES) - set(NAMES):
        with pytest.raises(LmmsteerError, match="do not give transformers' answers") as refused:
            gaudi.check(FAMILIES[name])
        assert "engine=shared" in refused.value.mend


def test_compile_mode_is_for_the_shared_engine():
    with pytest.raises(LmmsteerError, match=r"device\.mode=compile is not for engine=reference"):
        gaudi.check(FAMILIES["llava"], "compile")
