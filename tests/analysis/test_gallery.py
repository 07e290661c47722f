from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from analysis import gallery, thumbnail
from analysis.frame import Output
from analysis.marks import Marks
from analysis.words import targets
from lmmsteer.store import LocalStore
from tests.analysis import build

TARGETS = {
    "gender": targets("gender", ["man"], None, "deny"),
    "skin_tone": targets("skin_tone", ["dark"], {"dark coat": "unrelated"}, "deny"),
}


def item(prompt: str, image: str, spread: int, words: float = 0.0) -> gallery.Item:
    return gallery.Item("0", "m", "d", image, prompt, prompt, 0, {}, {"gender": spread}, words)


def test_counted_words_are_marked_and_everything_else_is_escaped() -> None:
    html = Marks(TARGETS).html('A <b>dark</b> Man in a dark coat & "hat"')
    assert html == (
        'A &lt;b&gt;<mark class="a1" title="skin tone">dark</mark>&lt;/b&gt; '
        '<mark class="a0" title="gender">Man</mark> in a dark coat &amp; &#34;hat&#34;'
    )


def test_the_difference_of_texts_is_the_mean_jaccard_distance_of_their_words() -> None:
    # {a b} and {b c}: 1 common of 3; {a b} and {a b}: all; {b c} and {a b}: 1 of 3.
    assert gallery.difference(["A b", "b c", "b, a"]) == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert gallery.difference(["alone"]) == 0
    assert gallery.difference(["", ""]) == 1


def test_rows_are_chosen_in_equal_shares_of_prompts_and_a_picture_once() -> None:
    items = [item("x", f"p{i}", 9) for i in range(5)] + [item("y", "p0", 1), item("y", "p1", 2)]
    items.append(item("x", "p0", 8))
    chosen = gallery.choose(items, 4)
    assert [(i.prompt_id, i.image_id) for i in chosen] == [
        ("x", "p0"),
        ("x", "p1"),
        ("y", "p1"),
        ("y", "p0"),
    ]


def test_the_spread_compares_the_methods_that_are_shown_for_an_attribute(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(0, "p0", gender="man")])
    output.cell("unsteered", "none", lambda *_: "man man dark man")
    output.cell("steered", "gender", lambda *_: "man dark dark dark dark")
    output.cell("steered", "skin_tone", lambda *_: "nothing")
    (found,) = gallery.build(Output(store), TARGETS, 5)
    assert found.spread == {"gender": 3 - 1, "skin_tone": 1 - 0}
    shown = [(answer.method, answer.attribute) for answer in found.answers]
    assert shown == [("unsteered", "none"), ("steered", "gender"), ("steered", "skin_tone")]


def test_a_failed_row_has_no_answer_beside_the_others(
    store: LocalStore, output: build.Output
) -> None:
    output.manifest([build.row(0, "p0")])
    output.cell("unsteered", "none", lambda *_: "a man")
    output.cell("prompt", "none", lambda *_: None)
    (found,) = gallery.build(Output(store), TARGETS, 5)
    assert [answer.text is None for answer in found.answers] == [False, True]


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def saved(image: Image.Image, form: str = "PNG", **keys: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **keys)
    return buffer.getvalue()


def test_thumbnails_keep_their_shape_within_the_limit() -> None:
    assert opened(thumbnail.data_uri(saved(Image.new("RGB", (800, 400))), 192)).size == (192, 96)
    assert opened(thumbnail.data_uri(saved(Image.new("RGB", (40, 20))), 192)).size == (40, 20)


def test_thumbnails_apply_orientation_transparency_and_16_bits() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert opened(thumbnail.data_uri(turned, 192)).size == (20, 40)
    clear = saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert opened(thumbnail.data_uri(clear, 192)).getpixel((4, 4)) == (255, 255, 255)
    deep = Image.new("I;16", (8, 8), 128 * 256)
    grey = opened(thumbnail.data_uri(saved(deep), 192)).getpixel((4, 4))
    assert grey == pytest.approx((128, 128, 128), abs=2)


def test_what_is_no_picture_has_no_thumbnail() -> None:
    assert thumbnail.data_uri(b"no picture", 192) is None
    assert thumbnail.data_uri(saved(Image.new("RGB", (64, 64), "red"))[:80], 192) is None
