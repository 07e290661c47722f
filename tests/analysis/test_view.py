from __future__ import annotations

import http.client
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image

from analysis import view
from lmmsteer.errors import LmmsteerError
from lmmsteer.schema import IMAGES, Picture
from lmmsteer.store import LocalStore, Store
from tests.analysis import build

HOSTILE = 'a "b" <c>/../d é.png'


@pytest.fixture(name="site")
def _site(store: LocalStore, output: build.Output) -> LocalStore:
    """A report of two lines, a chunk, and pictures of one data set."""
    output.manifest([build.row(0, "p0"), build.row(1, HOSTILE)])
    tiff = io.BytesIO()
    Image.new("CMYK", (8, 4)).save(tiff, format="TIFF")
    more = [Picture("tiff", tiff.getvalue(), "0"), Picture("none", None, None, "missing", "gone")]
    more.append(Picture("bad", b"no picture", "0"))
    build.write_part(
        store.folder / "manifest/dataset=people/images/part-00009.parquet", more, IMAGES
    )
    store.write_bytes("report/report.html", b'<!doctype html>\n<html lang="en">page')
    store.write_bytes("report/gallery/00000.js", b"lmmsteer.chunk()")
    store.write_bytes("report/notes.txt", b"not a kind of file that a report has")
    store.write_bytes("secret.js", b"outside")
    return store


@contextmanager
def serving(store: Store, said: list[str] | None = None, host: str = "127.0.0.1") -> Iterator[int]:
    told: list[str] = [] if said is None else said
    with view.server(store, host, 0, told.append) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def get(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_is_told_where_whole_pictures_are(site: LocalStore) -> None:
    with serving(site) as port:
        code, headers, body = get(port, "/")
        assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert body == b'<!doctype html>\n<html lang="en" data-pictures="pictures/">page'
        assert get(port, "/report.html?x=1")[2] == body
        assert get(port, "/gallery/00000.js")[1]["Content-Type"] == "text/javascript; charset=utf-8"
    assert b"data-pictures" not in site.read_bytes("report/report.html")


def test_pictures_are_the_manifests_own_bytes_under_any_id(site: LocalStore) -> None:
    sent = build.picture(build.row(0, "p0")).bytes
    with serving(site) as port:
        code, headers, body = get(port, "/pictures/people/p0")
        assert (code, headers["Content-Type"], body) == (200, "image/png", sent)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in headers["Content-Security-Policy"]
        assert get(port, "/pictures/people/a%20%22b%22%20%3Cc%3E%2F..%2Fd%20%C3%A9.png")[0] == 200


def test_what_browsers_cannot_show_is_made_png_and_what_is_no_picture_is_not_served(
    site: LocalStore,
) -> None:
    with serving(site) as port:
        code, headers, body = get(port, "/pictures/people/tiff")
        assert (code, headers["Content-Type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(body)).size == (8, 4)
        assert [get(port, f"/pictures/people/{name}")[0] for name in ("bad", "none", "x")] == [
            404
        ] * 3
        assert get(port, "/pictures/others/p0")[0] == 404
        assert get(port, "/pictures/..%2F..%2F/p0")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.js",
        "/..%2Fsecret.js",
        "/gallery/../../secret.js",
        "//secret.js",
        "/%2e%2e/secret.js",
        "/gallery/..%5C..%5Csecret.js",
        "/gallery/.hidden.js",
        "/gallery%00.js",
        "/notes.txt",
        "/gallery",
        "/nothing.js",
    ],
)
def test_nothing_but_the_reports_own_files_is_served(path: str, site: LocalStore) -> None:
    with serving(site) as port:
        assert get(port, path)[0] == 404


def test_only_who_names_this_machine_is_answered(site: LocalStore) -> None:
    with serving(site) as port:
        for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "LOCALHOST"):
            assert get(port, "/", Host=host)[0] == 200, host
        for host in (f"evil.example:{port}", "localhost.evil.example", "", "127.0.0.1.nip.io"):
            code, _, body = get(port, "/", Host=host)
            assert (code, b"page" in body) == (403, False), host


def test_nothing_is_written_and_head_has_no_body(site: LocalStore) -> None:
    with serving(site) as port:
        assert get(port, "/", method="HEAD")[::2] == (200, b"")
        assert get(port, "/", method="POST")[0] == 501
        assert get(port, "/favicon.ico")[0] == 200


def test_a_damaged_part_is_an_answer_and_a_line_and_not_the_end(site: LocalStore) -> None:
    site.write_bytes("manifest/dataset=people/images/part-00001.parquet", b"PAR1")
    said: list[str] = []
    with serving(site, said) as port:
        assert get(port, "/pictures/people/p0")[0] == 500
        assert get(port, "/")[0] == 200
    assert "part-00001.parquet cannot be read" in said[0]


def test_without_a_report_the_command_that_makes_it_is_named(store: LocalStore) -> None:
    with pytest.raises(LmmsteerError, match="has no report") as caught:
        view.server(store, "127.0.0.1", 0, print)
    assert "lmmsteer report" in str(caught.value.mend)


def test_an_address_that_is_taken_is_refused(site: LocalStore) -> None:
    with serving(site) as port, pytest.raises(LmmsteerError, match=f"port {port} cannot be used"):
        view.server(site, "127.0.0.1", port, print)


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("me", False)],
)
def test_who_can_reach_an_address(host: str, alone: bool) -> None:
    assert view.is_loopback(host) is alone
