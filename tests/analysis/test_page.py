"""The page in a real browser, opened from disk; without one these tests are skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import analysis
from analysis import Analysis, Report, gallery_files, report
from lmmsteer.store import LocalStore
from tests import browser
from tests.analysis import build
from tests.analysis.conftest import quiet
from tests.analysis.test_report import HOSTILE
from tests.analysis.test_view import serving
from tests.browser import Browser

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason="apt-get install chromium chromium-driver"
)
PICTURES = 40
PROMPTS = 2
SETTLED = "document.querySelector('#items').getAttribute('aria-busy') === 'false'"
SHOWN = "[...document.querySelectorAll('#items .item')]"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 80 rows: 40 pictures, two prompts, 7 cells."""
    return made(tmp_path_factory.mktemp("page"))


@pytest.fixture(name="window", scope="module")
def _window() -> Iterator[Browser]:
    with browser.opened() as window:
        yield window


@pytest.fixture(name="page")
def _page(folder: Path, window: Browser) -> Iterator[Browser]:
    """The page, as it opens; at the end the console must have been told nothing."""
    show(window, folder)
    yield window
    assert window.console() == []


def made(folder: Path, **keys: int) -> Path:
    build.sweep(folder, pictures=PICTURES, seeds=1)
    written(LocalStore(folder), **keys)
    return folder


def written(store: LocalStore, **keys: int) -> None:
    analysis.run(store, ["all"], Analysis(bootstrap=20), quiet)
    report.write(store, Report(**keys))


def show(window: Browser, folder: Path, state: str = "") -> None:
    window.open("about:blank")
    window.console()
    window.open((folder / "report/report.html").as_uri() + state)
    window.wait(SETTLED)


def images(page: Browser) -> list[str]:
    page.wait(SETTLED)
    return page.run(f"return {SHOWN}.map(e => e.querySelector('code').textContent)")


def labels(page: Browser) -> list[str]:
    page.wait(SETTLED)
    return page.run(f"return {SHOWN}.map(e => e.querySelector('figcaption span').textContent)")


def rows(folder: Path) -> dict:
    text = (folder / "report/gallery/index.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("lmmsteer.index(").rstrip().removesuffix(");"))


def test_it_opens_from_disk_on_the_first_of_its_pages(folder: Path, page: Browser) -> None:
    assert page.text("#count") == ["1–20 of 80 rows"]
    assert images(page) == rows(folder)["rows"]["image"][: gallery_files.PAGE]
    assert page.text(".pager span") == ["page 1 of 4"] * 2
    assert page.run("return [...document.images].every(i => i.complete && i.naturalWidth)")


def test_paging_shows_every_row_once_and_ends_where_they_end(folder: Path, page: Browser) -> None:
    seen = images(page)
    for number in (2, 3, 4):
        page.click(".pager [data-go='1']")
        seen += images(page)
        assert page.text(".pager span")[0] == f"page {number} of 4"
    assert seen == rows(folder)["rows"]["image"]
    assert page.run("return document.querySelector(\".pager [data-go='1']\").disabled")
    page.click(".pager [data-go='-1']")
    assert images(page) == seen[40:60]


def test_a_row_that_was_loaded_looks_as_one_that_came_with_the_page(
    folder: Path, page: Browser
) -> None:
    script = f"return {SHOWN}.map(e => e.innerText)"
    own = page.run(script)
    structure = (
        f"return {SHOWN}.map(e => [...e.querySelectorAll('*')].map(x => x.tagName + x.className))"
    )
    built = page.run(structure)
    text = (folder / "report/report.html").read_text(encoding="utf-8")
    begin, end = (
        text.index('<div id="items">'),
        text.index('<nav class="pager"', text.index('<div id="items">')),
    )
    bare = folder / "report/bare.html"
    bare.write_text(text[:begin] + '<div id="items"></div>' + text[end:], encoding="utf-8")
    page.open(bare.as_uri())
    page.wait(SETTLED)
    assert page.run(script) == own
    assert page.run(structure) == built


@pytest.mark.parametrize(
    ("field", "shown"),
    [("gender", "woman"), ("age", "old"), ("occupation", "fire fighter"), ("skin_tone", "dark")],
)
def test_a_filter_by_label_shows_all_with_it_and_no_others(
    field: str, shown: str, folder: Path, page: Browser
) -> None:
    page.choose(field, shown)
    index = rows(folder)
    values = index["labels"][field]
    place = values.index(next(v for v in values if v.replace("_", " ") == shown))
    wanted = index["rows"]["labels"][list(index["labels"]).index(field)].count(place)
    seen = labels(page)
    while not page.run("return document.querySelector(\".pager [data-go='1']\").disabled"):
        page.click(".pager [data-go='1']")
        seen += labels(page)
    assert len(seen) == wanted
    assert all(shown in said.split(", ") for said in seen)


def test_filters_add_up_and_are_reset(page: Browser) -> None:
    page.choose("prompt", "keywords")
    page.choose("gender", "man")
    page.choose("occupation", "doctor")
    found = labels(page)
    assert len(found) == 6  # every second of the 12 doctors, once
    assert all(said.startswith("man, ") and said.endswith(", doctor") for said in found)
    page.click("[type=reset]")
    page.wait("document.querySelector('#count').textContent === '1\u201320 of 80 rows'")


def test_a_picture_is_found_by_its_id_and_its_counterfactual_set_by_a_click(page: Browser) -> None:
    page.type("[name=find]", "P013")
    assert images(page) == ["p013"] * PROMPTS
    page.click(".set")
    assert sorted(set(images(page))) == ["p012", "p013", "p014", "p015"]
    page.run("const f = document.querySelector('[name=find]'); f.value = ''")
    page.type("[name=find]", "nobody")
    page.wait("document.querySelector('#count').textContent === 'no rows'")


def test_sorting_is_by_the_difference_of_the_attribute_of_all_words_or_by_picture(
    folder: Path, page: Browser
) -> None:
    index = rows(folder)["rows"]
    names = rows(folder)["attributes"]
    page.choose("attribute", "gender")
    spread = index["spread"][names.index("gender")]
    by_word = [s + w / 2 for s, w in zip(spread, index["words"], strict=True)]
    assert images(page) == [index["image"][i] for i in ranked(by_word)]
    page.choose("attribute", "all")
    total = [sum(s) + w / 2 for *s, w in zip(*index["spread"], index["words"], strict=True)]
    assert images(page) == [index["image"][i] for i in ranked(total)]
    page.choose("sort", "difference in all words")
    assert images(page) == [index["image"][i] for i in ranked(index["words"])]
    page.choose("sort", "picture")
    assert images(page) == [f"p{i // PROMPTS:03d}" for i in range(gallery_files.PAGE)]


def ranked(values: list[float]) -> list[int]:
    order = sorted(range(len(values)), key=lambda i: -values[i])
    return order[: gallery_files.PAGE]


def test_an_attribute_shows_its_own_answers_and_marks_alone(page: Browser) -> None:
    page.choose("attribute", "body type")
    shown = set(page.text("#items .answer:not([hidden]) h4"))
    assert shown == {"unsteered", "prompt", "random_direction", "steered_dataset body type"}
    marked = page.run(
        "return [...document.querySelectorAll('#items mark:not(.off)')].map(e => e.title)"
    )
    assert set(marked) == {"body type"}
    page.choose("attribute", "all")
    assert len(set(page.text("#items .answer:not([hidden]) h4"))) == 7


def test_methods_are_hidden_and_shown(page: Browser) -> None:
    page.click(".methods summary")
    page.click("[name=method][value=prompt]")
    page.wait("!document.querySelector('.answer[data-method=prompt]:not([hidden])')")
    page.click(".pager [data-go='1']")
    page.wait(SETTLED)
    assert "prompt" not in page.text("#items .answer:not([hidden]) h4")
    page.click("[name=method][value=prompt]")
    page.wait("document.querySelector('.answer[data-method=prompt]:not([hidden])')")


def test_the_address_keeps_what_is_shown(folder: Path, page: Browser) -> None:
    page.choose("gender", "woman")
    page.choose("attribute", "gender")
    page.click(".pager [data-go='1']")
    before, address = images(page), page.run("return location.hash")
    show(page, folder, address)
    page.wait("document.querySelector('#count').textContent.startsWith('21')")
    assert images(page) == before
    assert (
        page.run("return document.querySelector('[name=gender]').selectedOptions[0].text")
        == "woman"
    )


def test_all_is_reached_and_worked_with_the_keyboard(page: Browser) -> None:
    """Tab from the first field passes every field and ends at the pager, which space works."""
    page.run("document.querySelector('#filters select').focus()")
    passed = []
    for _ in range(30):
        passed.append(page.run("const a = document.activeElement; return a.name || a.tagName"))
        if page.run("return document.activeElement.dataset.go === '1'"):
            break
        page.press("\ue004")
    fields = [
        "attribute",
        "prompt",
        "gender",
        "age",
        "body_type",
        "skin_tone",
        "occupation",
        "find",
    ]
    assert passed[: len(fields)] == fields
    assert passed[-1] == "BUTTON"
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(" ")
    page.wait("document.querySelector('#count').textContent.startsWith('21')")


def test_every_picture_and_plot_is_described(page: Browser) -> None:
    page.click(".pager [data-go='1']")
    page.wait(SETTLED)
    assert page.run("return [...document.images].every(i => /^Picture p\\d+: /.test(i.alt))")
    plots = page.run("return [...document.querySelectorAll('.plot')].map(e => e.ariaLabel)")
    assert [words.split(".")[0] for words in plots] == [
        "Change of mentions against occupation named",
        "Negative answers per 1k by group, the fewest to the most",
    ]


def test_on_a_phone_nothing_is_wider_than_the_screen(folder: Path) -> None:
    with browser.opened((390, 800)) as phone:
        show(phone, folder)
        phone.run("document.documentElement.style.width = '375px'")
        wide = """return [...document.querySelectorAll("body *")].filter(e =>
            e.getBoundingClientRect().right > Math.max(innerWidth, 375) + 1
            && !e.closest(".scroll, svg, pre")).map(e => e.outerHTML.slice(0, 120))"""
        assert phone.run(wide) == []
        assert phone.run("return document.documentElement.scrollWidth <= innerWidth + 1")


def test_without_the_folder_beside_it_the_page_says_so_and_shows_what_it_has(
    tmp_path: Path, window: Browser
) -> None:
    folder = made(tmp_path)
    (folder / "report/gallery").rename(folder / "elsewhere")
    window.open((folder / "report/report.html").as_uri())
    window.wait("document.querySelector('#count').textContent.includes('gallery/ is not beside')")
    assert len(window.text("#items .item")) == gallery_files.PAGE
    assert window.run("return document.querySelector('[name=gender]').disabled")
    window.choose("attribute", "gender")
    assert "steered_dataset gender" in window.text("#items .answer:not([hidden]) h4")


def test_rows_of_another_report_are_not_mixed_in(tmp_path: Path, window: Browser) -> None:
    folder = made(tmp_path)
    show(window, folder)
    build.Output(folder).manifest(build.people(PICTURES)).cell("unsteered", "none", build.story({}))
    written(LocalStore(folder))
    window.choose("sort", "picture")
    window.wait(SETTLED)
    window.wait("document.querySelector('.waiting .said')")
    assert "is of another report: load this page again" in window.text(".waiting .said")[0]


def test_a_shorter_gallery_leaves_nothing_of_a_longer_one(tmp_path: Path, window: Browser) -> None:
    folder = made(tmp_path)
    report.write(LocalStore(folder), Report(gallery=15))
    sizes = [path.stat().st_size > 0 for path in sorted((folder / "report/gallery").glob("0*"))]
    assert sizes == [True] * 2 + [False] * 6
    show(window, folder)
    assert window.text("#count") == ["15 rows"]
    assert window.run("return document.querySelector('.pager').hidden")


def test_answers_ids_and_labels_are_text_and_never_markup(
    store: LocalStore, output: build.Output, window: Browser
) -> None:
    people = [
        build.row(i, f"<b>{i}</b>{HOSTILE}", occupation=HOSTILE, race=HOSTILE) for i in range(30)
    ]
    output.manifest(people)
    output.cell("unsteered", "none", lambda *_: HOSTILE)
    output.cell("prompt", "none", lambda *_: HOSTILE + " \u2028 </script> again")
    written(store)
    show(window, store.folder)
    window.click(".pager [data-go='1']")
    window.wait("document.querySelector('#count').textContent.startsWith('21')")
    window.wait(SETTLED)
    assert len(window.text("#items .item")) == 10
    assert (
        window.run(
            "return document.querySelectorAll('#items b, #items script, #items [onerror]').length"
        )
        == 0
    )
    assert HOSTILE in window.run("return document.querySelector('#items .answer p').textContent")
    assert window.console() == []


def test_served_its_pictures_open_in_full_size(folder: Path, window: Browser) -> None:
    with serving(LocalStore(folder)) as port:
        window.open(f"http://127.0.0.1:{port}/")
        window.console()
        window.wait("document.querySelector('.open')")
        window.click(".open")
        assert window.wait("document.querySelector('#large img').naturalWidth") == 224
        assert window.run("return document.querySelector('#large img').alt").startswith("Picture p")
        window.press("\ue00c")
        assert not window.run("return document.getElementById('large').open")
        window.click(".pager [data-go='1']")
        window.wait(SETTLED)
        window.click(".open")
        window.wait("document.querySelector('#large img').complete")
        window.click("#large button")
        assert not window.run("return document.getElementById('large').open")
        assert window.console() == []
