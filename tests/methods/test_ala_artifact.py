"""ALA's artifacts: what does not fit is refused and named."""

import pytest
import torch

from lmmsteer.errors import LmmsteerError
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.artifact import Artifact
from lmmsteer.methods.base import Context
from tests.methods.ala_world import GENDER, facts, pictures, requests
from tests.tiny import tiny_lmm


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
