from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import polars as pl
import pytest

import analysis
from analysis import Analysis, Report, report, scores
from analysis.plot import points
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.analysis.conftest import quiet

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> & </p></div> man \"'"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed where it should be, and keeps what a test looks at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.seen if name == tag]


def make(store: LocalStore, **keys: int) -> str:
    analysis.run(store, ["all"], Analysis(bootstrap=50), quiet)
    assert "report/report.html" in report.write(store, Report(**keys))
    return (store.folder / "report/report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    text = make(store, gallery=6)
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\(|@import|<link|<iframe|\ssrc=\"(?!data:)", text)
    assert len(page.all("script")) == 1
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)
    ids = [attrs["id"] for _, attrs in page.seen if attrs.get("id")]
    assert len(ids) == len(set(ids))
    anchors = {str(a["href"]).removeprefix("#") for a in page.all("a")}
    assert anchors <= set(ids)


def test_every_picture_is_embedded_and_described(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    page = Page(make(store, gallery=6))
    pictures = page.all("img")
    assert len(pictures) == 6
    for picture in pictures:
        assert str(picture["src"]).startswith("data:image/jpeg;base64,")
        assert re.match(r"Picture p\d+: (man|woman), ", str(picture["alt"]))
    assert all(svg.get("aria-hidden") == "true" for svg in page.all("svg"))


def test_an_answer_cannot_be_markup(store: LocalStore, output: build.Output) -> None:
    rows = [build.row(0, "<b>id</b>", occupation="<i>chef</i>"), build.row(1, "p1")]
    output.manifest(rows)
    output.cell("unsteered", "none", lambda *_: HOSTILE)
    output.cell("prompt", "none", lambda *_: HOSTILE + " again")
    text = make(store)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "<b>id" not in text
    assert not [attrs for _, attrs in page.seen if "onerror" in attrs]
    assert "<i>" not in text
    assert "alert(1)" in page.text


def test_target_words_are_marked_with_their_attribute(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    page = Page(make(store, gallery=6))
    titles = {attrs.get("title") for attrs in page.all("mark") if attrs.get("title")}
    assert titles <= {"age", "body type", "gender", "skin tone"}
    assert "gender" in titles


def test_the_gallery_has_as_many_rows_as_asked_for(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    text = make(store, gallery=4)
    assert text.count('<article class="item"') == 4
    assert make(store, gallery=0).count('<article class="item"') == 0


def test_unverified_answers_are_said_to_be_so(store: LocalStore, output: build.Output) -> None:
    output.rows = build.people(4)
    output.cell("unsteered", "none", build.story({"gender": 0.5}), ours=False)
    page = Page(make(store))
    assert "unverified" in page.text
    assert page.text.count("no picture") > 0


def test_several_models_and_data_sets_share_one_page(store: LocalStore) -> None:
    for dataset, model in (("people", "tiny"), ("others", "tiny"), ("people", "small")):
        made = build.Output(store.folder, dataset).manifest(build.people(8))
        made.cell("unsteered", "none", build.story({"gender": 0.6}), model=model)
        made.cell("prompt", "none", build.story({"gender": 0.3}), model=model)
    page = Page(make(store, gallery=12))
    for place in ("tiny on people", "tiny on others", "small on people"):
        assert f"Mentions by method: {place}" in page.text


def test_a_point_of_the_plot_is_a_method_and_an_attribute(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    make(store)
    mentions, occupation = (scores.read(store, name) for name in ("mentions", "occupation"))
    assert mentions is not None
    assert occupation is not None
    found = points(mentions[0], occupation[0])
    pairs = sorted(found.select("method", "attribute").rows())
    methods = ["prompt", "random_direction", "steered_dataset"]
    assert pairs == [(m, a) for m in methods for a in sorted(build.ATTRIBUTES)]


def test_the_plots_axis_spans_the_shares_and_not_much_more(store: LocalStore) -> None:
    for dataset in ("people", "others"):
        made = build.Output(store.folder, dataset).manifest(build.people(12))
        made.cell("unsteered", "none", build.story({"gender": 0.6}))
        made.cell("prompt", "none", build.story({"gender": 0.3}, named=0.7))
    make(store)
    drawn = (store.folder / "report/plot.svg").read_text()
    found = re.search(
        r"X-axis titled '[^']*' for a linear scale with values from (\d+) to (\d+)", drawn
    )
    assert found is not None
    assert 30 <= int(found[1]) < int(found[2]) <= 110


def test_tables_are_written_as_markdown_and_latex_too(store: LocalStore) -> None:
    build.sweep(store.folder, pictures=12, seeds=1)
    make(store)
    assert "| attribute | method |" in (store.folder / "report/tables.md").read_text()
    assert r"\toprule" in (store.folder / "report/tables.tex").read_text()
    assert "Differences from unsteered answers" in (store.folder / "report/tables.md").read_text()
    long = pl.read_parquet(store.folder / "report/tables.parquet")
    assert {"mentions", "occupation", "sentiment"} <= set(long["analysis"])
    assert report.headline(store).startswith("Mentions by method: tiny on people\n")


@pytest.mark.parametrize("keys", [{"gallery": -1}, {"pixels": 0}])
def test_a_size_that_cannot_be_is_refused(keys: dict[str, int], store: LocalStore) -> None:
    with pytest.raises(LmmsteerError, match=f"report.{next(iter(keys))}=.* is too small"):
        report.write(store, Report(**keys))


def test_an_output_without_scores_is_refused_with_the_command_that_makes_them(
    store: LocalStore,
) -> None:
    with pytest.raises(LmmsteerError, match="lmmsteer analyze"):
        report.write(store)


def test_analyses_load_neither_torch_nor_ray() -> None:
    code = (
        "import sys, analysis, analysis.report;"
        "print([n for n in ('torch', 'ray', 'transformers', 'hydra') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
