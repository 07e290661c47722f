from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import Analysis
from analysis.captions import Study, java
from analysis.captions.meteor import BATCH
from analysis.captions.pair import Pair
from analysis.captions.spice import PARSER
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.store import LocalStore
from tests.analysis import build, stand_in_java
from tests.analysis.test_captions import rows, run, value
from tests.conftest import Command

Keys = dict[str, Any]
PAIRS = [
    Pair("A man rides!", ("A man rides a horse.", "horse")),
    Pair("...", ("A dog.",)),
    Pair("a\ndog ||| runs", ("A dog sleeps", "The dog\r\nruns")),
]
# 2 * common words / words of both, by hand; punctuation and ||| are no words.
SCORES = [2 * 3 / (3 + 5), 0.0, 2 * 2 / (3 + 3)]


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Keys]:
    """The keys that name a stand-in for Java, and jars that are there but empty."""

    def made(mode: str = "fine", version: str = "1.8.0_402") -> Keys:
        script = tmp_path / "java"
        pids = tmp_path / "pids"
        line = f'exec {sys.executable} {stand_in_java.__file__} {mode} {version} {pids} "$@"'
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        (tmp_path / "lib").mkdir(exist_ok=True)
        for name in ("meteor.jar", "tokens.jar", "spice.jar", *(f"lib/{n}" for n in PARSER)):
            (tmp_path / name).touch()
        jars = {f"{n}_jar": str(tmp_path / f"{n}.jar") for n in ("meteor", "spice")}
        return {"java": str(script), "tokenizer_jar": str(tmp_path / "tokens.jar"), **jars}

    return made


def study(folder: Path, name: str, keys: Keys) -> Study:
    settings = Analysis(**{"name": "captions", "caption_metrics": [name], **keys})
    return Study(LocalStore(folder), settings, lambda _: None)


def gone(folder: Path) -> bool:
    """Whether no stand-in is left, a second later at most."""
    for _ in range(100):
        alive = [p for p in (folder / "pids").read_text().split() if _runs(int(p))]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # gone; or gone between the opening and the reading: ESRCH
        return False


@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_scores_come_back_in_order_and_nothing_is_left_running(
    name: str, stand_in: Callable[..., Keys], tmp_path: Path
) -> None:
    made = study(tmp_path, name, stand_in())
    (scorer,) = made.scorers
    many = PAIRS * (BATCH // 2)
    found = scorer.scores(many)
    expected = SCORES if name == "meteor" else [SCORES[0], None, SCORES[2]]
    assert found == [pytest.approx(x) if x else x for x in expected * (BATCH // 2)]
    made.close()
    assert gone(tmp_path)


@pytest.mark.parametrize(
    ("name", "mode", "says"),
    [
        ("meteor", "dies", "METEOR ended, saying: Exception in thread main: no memory"),
        ("meteor", "hangs", "METEOR said nothing for 1 s"),
        ("meteor", "nonsense", r"METEOR answered '\[INFO\] loading' where numbers belong"),
        ("meteor", "loses", "The tokenizer wrote 0 lines for 8 texts"),
        ("spice", "dies", "SPICE ended with code 1, saying: Exception in thread main: no memory"),
        ("spice", "hangs", "SPICE did not end within 1 s"),
        ("spice", "nonsense", "SPICE wrote no scores that can be read"),
    ],
)
def test_a_program_that_dies_hangs_or_says_nonsense_is_an_error_and_is_ended(
    name: str, mode: str, says: str, stand_in: Callable[..., Keys], tmp_path: Path
) -> None:
    made = study(tmp_path, name, {**stand_in(mode), "java_seconds": 1 if mode == "hangs" else 60})
    (scorer,) = made.scorers
    with pytest.raises(RunFailed, match=says):
        scorer.scores(PAIRS)
    made.close()
    assert gone(tmp_path)


def test_a_run_that_fails_writes_no_scores_and_exits_with_1(
    stand_in: Callable[..., Keys], store: LocalStore, output: build.Output, command: Command
) -> None:
    keys = [f"analysis.{key}={path}" for key, path in stand_in("dies").items()]
    output.manifest(rows())
    output.cell("unsteered", "none", lambda row, _: "a man")
    line = ["analyze", "analysis=captions", f"out={output.root}", *keys]
    code, _, err = command(*line, "analysis.caption_metrics=[meteor]")
    assert (code, "METEOR ended" in err, "Traceback" in err) == (1, True, False)
    assert not store.exists("scores/captions.parquet")
    assert gone(output.root)


def test_every_metric_and_its_max_rule_are_in_the_scores(
    stand_in: Callable[..., Keys], store: LocalStore, output: build.Output
) -> None:
    frame, _ = run(store, output, caption_metrics=[], **stand_in())
    names = {"rouge_l", "meteor", "spice"}
    assert set(frame["metric"]) == {
        f"{most}{name}{change}"
        for name in names
        for most in ("", "max_")
        for change in ("", "_change")
    }
    # "a person rides" has "a rides" of "a man rides a horse", and all three of "a person rides ..."
    assert value(frame, "prompt", "meteor")[0] == pytest.approx((4 / 8 + 4 / 6 + 1) / 3)
    assert value(frame, "prompt", "max_meteor")[0] == pytest.approx((6 / 8 + 1 + 1) / 3)
    assert gone(output.root)


@pytest.mark.parametrize(
    ("name", "change", "says", "mend"),
    [
        ("meteor", {"java": "no-java"}, "no-java is no command", "apt-get install openjdk-17"),
        ("meteor", {"meteor_jar": "no.jar"}, "meteor_jar=no.jar is no file", "pip install"),
        ("meteor", {"tokenizer_jar": "no.jar"}, "tokenizer_jar=no.jar", "pip install"),
        ("spice", {"spice_jar": "no.jar"}, "spice_jar=no.jar is no file", "pip install"),
    ],
)
def test_what_is_missing_is_told_with_what_installs_it(
    name: str,
    change: Keys,
    says: str,
    mend: str,
    stand_in: Callable[..., Keys],
    tmp_path: Path,
) -> None:
    with pytest.raises(LmmsteerError, match=says) as error:
        _ = study(tmp_path, name, {**stand_in(), **change}).scorers
    assert mend in error.value.mend
    assert "analysis.caption_metrics=[rouge_l]" in error.value.mend


def test_spice_is_refused_on_a_newer_java_and_without_its_parser(
    stand_in: Callable[..., Keys], tmp_path: Path
) -> None:
    with pytest.raises(LmmsteerError, match=r"Java 8 to 14, and .* is Java 17"):
        _ = study(tmp_path, "spice", stand_in(version="17.0.15")).scorers
    keys = stand_in()
    (tmp_path / "lib" / PARSER[1]).unlink()
    with pytest.raises(LmmsteerError, match=rf"SPICE needs {PARSER[1]}"):
        _ = study(tmp_path, "spice", keys).scorers


@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_a_program_ends_with_a_run_that_is_killed(
    name: str, stand_in: Callable[..., Keys], tmp_path: Path
) -> None:
    mode = "fine" if name == "meteor" else "hangs"
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from analysis import Analysis
        from analysis.captions import Study
        from analysis.captions.pair import Pair
        from lmmsteer.store import LocalStore
        keys = {{**{stand_in(mode)!r}, "caption_metrics": [{name!r}], "name": "captions"}}
        study = Study(LocalStore(Path({str(tmp_path)!r})), Analysis(**keys), print)
        study.scorers[0].scores([Pair("a", ("b",))])
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=Path(java.__file__).parents[2])
    started = 2 if name == "meteor" else 3  # the tokenizer, before SPICE also java -version
    try:
        for _ in range(600):
            if (tmp_path / "pids").exists() and len(_lines(tmp_path)) == started:
                break
            time.sleep(0.05)
        assert _runs(int(_lines(tmp_path)[-1]))
    finally:
        parent.kill()
        parent.wait()
    assert gone(tmp_path)


def _lines(folder: Path) -> list[str]:
    return (folder / "pids").read_text().split()


def _real() -> bool:
    there = importlib.util.find_spec("pycocoevalcap") is not None
    return there and shutil.which("java") is not None


@pytest.mark.skipif(not _real(), reason="needs java, and pycocoevalcap for meteor-1.5.jar")
def test_the_real_meteor_scores_as_pycocoevalcap_does(tmp_path: Path) -> None:
    from pycocoevalcap.meteor.meteor import Meteor  # type: ignore[import-not-found]
    from pycocoevalcap.tokenizer.ptbtokenizer import (  # type: ignore[import-not-found]
        PTBTokenizer,
    )

    pairs = [
        Pair("A man is riding a horse.", ("The man rides a horse!", "a person on a pony")),
        Pair("The shop isn't open (yet)", ("A closed shop.",)),
        Pair("two dogs", ("A boat on the sea",)),
    ]
    made = study(tmp_path, "meteor", {})
    (scorer,) = made.scorers
    try:
        found = scorer.scores(pairs)
        (same,) = scorer.scores([Pair(pairs[0].answer, (pairs[0].answer,))])
    finally:
        made.close()
    answers = {i: [{"caption": pair.answer}] for i, pair in enumerate(pairs)}
    references = {i: [{"caption": t} for t in p.references] for i, p in enumerate(pairs)}
    cut = PTBTokenizer()
    theirs = Meteor()
    try:
        _, scores = theirs.compute_score(cut.tokenize(references), cut.tokenize(answers))
    finally:
        for pipe in (theirs.meteor_p.stdin, theirs.meteor_p.stdout, theirs.meteor_p.stderr):
            pipe.close()
        theirs.meteor_p.kill()
        theirs.meteor_p.wait()
    assert found == pytest.approx(scores)
    assert 0.2 < (found[0] or 0) < (same or 0) <= 1


@pytest.mark.skipif(not _real(), reason="needs java, and pycocoevalcap for the tokenizer")
def test_the_real_tokenizer_keeps_letters_of_every_alphabet_and_one_line_a_text(
    tmp_path: Path,
) -> None:
    made = study(tmp_path, "meteor", {})
    treebank = made.scorers[0].treebank  # type: ignore[attr-defined]
    texts = ["A Café,\nisn't it?", "...", "Ein Fräulein ||| 人"]
    assert list(treebank.tokens(texts).values()) == [
        "",
        "a café is n't it",
        "ein fräulein | | | 人",
    ]
