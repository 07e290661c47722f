"""Methods from the command line: what cannot work is one sentence, before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.jobs.test_commands import generate
from tests.tiny_families import tiny_family

LEXICON = "method.lexicon={man: 1.0, woman: -1.0}"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=steered_gradient"], "method=steered_gradient needs an attribute"),
        (["method=steered_gradient", "attribute=age", "method.epsilon=none"], "method.epsilon"),
        (["method=steered_gradient", "attribute=age", "method.layer=first"], "method.layer=first"),
        (["method=steered_gradient", "attribute=age", "method.scope=[sky]"], "method.scope"),
        (["method=steered_gradient", "attribute=age", "method.scope=picture"], "method.scope"),
        (["method=prompt"], "method=prompt has no words"),
        (["method=blocklist"], "method=blocklist needs an attribute"),
        (["method=blocklist", "method.words=man"], "method.words"),
        (["method=ala_n", "attribute=age"], "lmmsteer fit method=ala_n attribute=age"),
        (["method=ala_n", "attribute=age", "method.classifier=lexicon"], "lexicon"),
        (["method=ala", "attribute=age", "method.target=left"], "method.target=left"),
        (["method=ala_cross"], "method.terms"),
        (["method=ala_cross", "method.terms=gender"], "method.terms"),
        (["method=ala_cross", "method.terms=[{attribute: hat}]"], "attribute=hat is unknown"),
        (["method=compose"], "method=compose has no methods"),
        (["method=compose", "method.methods=ala"], "method.methods"),
        (["method=compose", "method.methods=[nada]"], "method=nada is unknown"),
        (["method=compose", "method.methods=[compose]"], "compose"),
        (["method=compose", "method.methods=[{name: vdd, beto: 1}]"], "beto"),
        (
            ["method=compose", "method.methods=[{name: ala_n, attribute: age}]"],
            "lmmsteer fit method=ala_n attribute=age",
        ),
        (["method=compose", "method.methods=[steered_gradient]"], "needs an attribute"),
        (["method=vdd", "method.contrast=half"], "method.contrast=half"),
        (["method=sfid", "attribute=age"], "lmmsteer fit method=sfid attribute=age"),
        (["method=random_direction", "method.layers=[99]"], "layer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_method_that_cannot_work_is_refused_before_anything_is_written(
    overrides: list[str], says: str, photos: Path, tmp_path: Path, command: Command
) -> None:
    code, out, err = command(*generate(photos, tmp_path / "out", *overrides))
    assert "Traceback" not in err + out
    assert (code, says in err) == (2, True), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "method", "says"),
    [
        ("blip", "steered_gradient", "no pre-norm residual stream"),
        ("blip", "sfid", "no projector"),
        ("clipcap", "vdd", "say nothing without a picture"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "fit"])
def test_what_a_family_does_not_have_is_refused_by_name(
    family: str, method: str, says: str, verb: str, photos: Path, tmp_path: Path, command: Command
) -> None:
    line = generate(photos, tmp_path / "out", f"method={method}", "attribute=gender")[1:]
    line = [f"model.path={tiny_family(family)}" if w.startswith("model.path") else w for w in line]
    code, out, err = command(verb, *line)
    if verb == "fit" and method in ("steered_gradient", "vdd"):
        says = "has nothing to fit"
    assert (code, says in out + err) == (2, True), out + err


def test_methods_that_need_nothing_fitted_are_planned(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    for more in (
        ["method=steered_gradient", "attribute=gender"],
        ["method=blocklist", "method.words=[man]"],
        ["method=ala_n", "attribute=gender", "method.classifier=lexicon", LEXICON],
        ["method=compose", "method.methods=[vdd,{name: blocklist, words: [man]}]"],
        ["method=compose", "method.methods=[{name: steered_gradient, attribute: age}]"],
        [
            "method=ala_cross",
            "method.terms=[{attribute: gender, target: 0.0, classifier: lexicon, "
            "lexicon: {man: 1.0}}]",
        ],
    ):
        line = generate(photos, tmp_path / "out", *more)[1:]
        code, out, err = command("plan", *line, "json=true")
        assert code == 0, out + err
        assert len(json.loads(out)["cells"]) == 1
