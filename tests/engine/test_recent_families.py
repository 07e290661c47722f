"""What is peculiar to the families of 2025, beside what every family is asked."""

import json
import shutil
from itertools import pairwise

import pytest
import torch

from lmmsteer.engine.edit import Edit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.errors import LmmsteerError
from lmmsteer.models.lmm import load
from tests.engine import oracle
from tests.engine.test_families import rows
from tests.tiny import photographs
from tests.tiny_families import tiny_family, tiny_family_lmm
from tests.tiny_recent import RECENT

NEW = 12
GREEDY = Sampling(temperature=0, max_new_tokens=NEW)
CAT = photographs()["cat"]


def changed(name, file, to, **changes):
    """A copy of a tiny model's folder with other values in one of its JSON files."""
    folder = shutil.copytree(tiny_family(name), to / name)
    settings = json.loads((folder / file).read_text())
    inner = settings["text_config"] if "sliding_window" in changes else settings
    inner.update(changes)
    (folder / file).write_text(json.dumps(settings))
    return folder


def by_hand(name, folder):
    plain = oracle.family_oracle(name, folder)
    return [plain.greedy(r.prompt, photographs()[r.image_id], NEW) for r in rows()]


def told(engine, lmm):
    return [r.token_ids for r in engine.generate(lmm, rows(), photographs(), Edit(), GREEDY)]


def test_a_window_shorter_than_the_rows_is_kept_by_the_reference_and_refused_by_the_other(tmp_path):
    folder = changed("gemma3", "config.json", tmp_path, sliding_window=24)
    lmm = load("gemma3", str(folder))
    wanted = by_hand("gemma3", folder)
    assert told(Reference(9), lmm) == wanted
    assert wanted != by_hand("gemma3", tiny_family("gemma3"))  # Whose window is wider.
    with pytest.raises(LmmsteerError, match=r"window of 24[\s\S]*engine=reference"):
        told(Shared(4), lmm)


def test_a_picture_that_is_not_split_is_shown_whole(tmp_path):
    small = {"size": {"longest_edge": 32}}
    folder = changed("smolvlm", "preprocessor_config.json", tmp_path, **small)
    lmm = load("smolvlm", str(folder))
    fake = "<fake_token_around_image>"
    assert lmm.prepare(CAT).shown == f"{fake}<global-img>{'<image>' * 4}{fake}"
    wanted = by_hand("smolvlm", folder)
    assert told(Shared(4), lmm) == told(Reference(9), lmm) == wanted


def hidden_of_picture(lmm, picture):
    """Residuals behind the first block, where the picture's tokens stand."""
    seen = []
    hook = lmm.layers[0].register_forward_hook(
        lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out).detach())
    )
    inputs = lmm.inputs(["Is it day?"], [picture])
    lmm.model(**inputs)
    hook.remove()
    return seen[0].reshape(-1, lmm.d_model)[inputs["input_ids"][0] == lmm.image_token_id]


@pytest.mark.parametrize(("name", "sees"), [("gemma3", True), ("internvl", False)])
def test_gemmas_picture_sees_itself_in_both_directions(name, sees, monkeypatch):
    """The last token of the picture is another: the first notices, or it does not."""
    lmm = tiny_family_lmm(name)
    before = hidden_of_picture(lmm, CAT)
    with monkeypatch.context() as during:
        project = lmm.projector.forward

        def other(features):
            made = project(features).clone()
            made[-1, -1] += 1.0
            return made

        during.setattr(lmm.projector, "forward", other)
        after = hidden_of_picture(lmm, CAT)
    assert not torch.allclose(before[-1], after[-1], atol=1e-3)
    assert torch.allclose(before[0], after[0], atol=1e-5) is not sees


@pytest.mark.skipif("qwen3_vl" not in RECENT, reason="This transformers does not have it.")
def test_qwen3s_features_are_those_of_all_levels_side_by_side():
    lmm = tiny_family_lmm("qwen3_vl")
    (found,) = Shared().features(lmm, [lmm.prepare(CAT)])
    assert found.shape[-1] == lmm.feature_levels * lmm.d_model == 3 * 32
    parts = found.split(lmm.d_model, -1)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in pairwise(parts))


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "smolvlm"])
def test_pictures_of_other_shapes_have_other_numbers_of_tiles_and_tokens(name):
    lmm = tiny_family_lmm(name)
    square, wide = (lmm.prepare(photographs()[image_id]) for image_id in ("astronaut", "cat"))
    assert square.tokens != wide.tokens
    assert square.features["pixel_values"].shape != wide.features["pixel_values"].shape
    together = Shared().features(lmm, [square, wide])
    assert [len(features) for features in together] == [square.tokens, wide.tokens]
