"""What methods cost: the arithmetic of the rounds by hand, and every edit that is timed."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from jobs import cost
from lmmsteer.engine.benchmark.options import Options
from lmmsteer.engine.benchmark.workload import Workload, workload
from lmmsteer.engine.edit import Adjustment, Edit
from lmmsteer.engine.shared import Shared
from tests.tiny import tiny_lmm


@cache
def work() -> Workload:
    return workload(Options(pictures=2, picture_size=40, lengths="fixed:3", seeds=(0, 1)))


@cache
def made() -> dict[str, cost.Made]:
    return cost.made_up(tiny_lmm(), work(), engine())


@cache
def engine() -> Shared:
    return Shared(4)


def test_a_method_is_held_against_the_unsteered_runs_before_and_after_it() -> None:
    taken = iter([10.0, 15.0, 20.0, 12.0, 30.0, 8.0, 8.0, 8.0, 4.0, 8.0])
    asked: list[str | None] = []

    def seconds(name: str | None) -> float:
        asked.append(name)
        return next(taken)

    found = cost.rounds(seconds, ["a", "b"], 2)
    assert asked == [None, "a", None, "b", None] * 2
    # 2 15 / (10 + 20), 2 8 / (8 + 8); 2 12 / (20 + 30), 2 4 / (8 + 8).
    assert found == {"a": [1.0, 1.0], "b": [0.48, 0.5]}


def test_no_rounds_and_no_methods_ask_for_nothing() -> None:
    assert cost.rounds(lambda _: 1 / 0, ["a"], 0) == {"a": []}
    assert cost.rounds(lambda _: 1.0, [], 3) == {}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("prompt", {"prompts"}),
        ("blocklist", {"rules"}),
        ("random_direction", {"residual"}),
        ("steered_dataset", {"residual"}),
        ("steered_gradient", {"residual"}),
        ("ala", {"rules"}),
        ("ala_lexicon", {"rules"}),
        ("features", {"features"}),
        ("vdd", {"contrast"}),
    ],
)
def test_every_timed_edit_changes_what_its_method_changes(name: str, changes: set[str]) -> None:
    edit = made()[name]()
    empty = Edit()
    parts = ("prompts", "residual", "features", "contrast", "rules")
    assert {part for part in parts if getattr(edit, part) != getattr(empty, part)} == changes


def test_nothing_else_is_timed() -> None:
    assert len(made()) == 9
    (rule,) = made()["ala"]().rules
    assert isinstance(rule, Adjustment)
    assert made()["steered_gradient"]().residual.of is not None  # type: ignore[union-attr]


def test_a_run_encodes_every_picture_and_answers_every_row_at_its_length() -> None:
    for _ in range(2):  # Nothing is kept from the run before.
        assert cost.once(tiny_lmm(), work(), engine(), made()["features"]) > 0
        assert engine().stats.encoded == 2
        assert engine().stats.tokens == 2 * 5 * 2 * 3  # Pictures, prompts, seeds, tokens.


def test_the_table_has_a_line_for_each_method_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "build", lambda *_: tiny_lmm())
    small: list[Any] = ["--pictures", "1", "--lengths", "fixed:1", "--repeats", "2", "--threads"]
    assert cost.main([*small, "1", "--methods", "vdd,prompt"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "15 rows, 15 tokens, 2 rounds" in head
    assert [text.split()[0] for text in lines] == ["vdd", "prompt"]
    for text in lines:
        middle, low, high = map(float, re.findall(r"\d+\.\d\d", text))
        assert low <= middle <= high
    with pytest.raises(SystemExit) as stop:
        cost.main([*small, "1", "--methods", "vdd,nada"])
    assert stop.value.code == 2
    assert "no method is called nada here; there are prompt, blocklist" in capsys.readouterr().err
