"""What may stand at a picture's path: a file's bytes come back, or a typed reason, at once."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from lmmsteer.datasets import base
from lmmsteer.datasets.base import read_named
from lmmsteer.datasets.folder import Folder
from tests.conftest import png
from tests.datasets.rights import unprivileged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png("blue"))
    return folder


def kind(root: Path, name: str) -> str | None:
    picture = read_named(name, root, name)
    assert (picture.bytes is None) == (picture.error_kind is not None) == bool(picture.error)
    return picture.error_kind


def test_a_files_bytes_and_their_digest_are_read(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "link.png").symlink_to(root / "a.png")
    for name in ("a.png", "./a.png", "sub/link.png"):
        picture = read_named("id", root, name)
        assert (picture.image_id, picture.bytes, picture.error) == ("id", png(), None)
        assert picture.sha256 == hashlib.sha256(png()).hexdigest()


def test_an_empty_file_is_read(root: Path) -> None:
    (root / "empty.png").touch()
    assert read_named("e", root, "empty.png").bytes == b""


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "sub/../a.png",
        "/etc/hostname",
        "http://10.255.255.1/a.png",
        "https://example.org/a.png",
        "file:///etc/hostname",
        "s3://bucket/a.png",
        "data:image/png;base64,AAAA",
    ],
)
def test_a_name_that_is_no_path_below_the_folder_is_outside(name: str, root: Path) -> None:
    assert kind(root, name) == "picture_outside"


def test_an_absolute_path_is_outside_even_where_it_leads_inside(root: Path) -> None:
    assert kind(root, str(root / "a.png")) == "picture_outside"


def test_no_address_is_ever_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    (root / "metadata.csv").write_text("file_name\nhttp://example.org/a.png\n")
    (sample,) = Folder("f", str(root)).samples()
    picture = sample.read()
    assert picture.error == "http://example.org/a.png is an address, not a file of the folder"


def test_a_link_out_of_the_folder_is_outside(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "up").symlink_to(root.parent)
    assert kind(root, "link.png") == "picture_outside"
    assert kind(root, "up/secret.png") == "picture_outside"
    assert kind(root, "up/root/a.png") is None


def test_what_is_not_there_is_missing(root: Path) -> None:
    (root / "dangling.png").symlink_to(root / "gone.png")
    for name in ("gone.png", "no/folder.png", "a.png/b.png", "dangling.png"):
        assert kind(root, name) == "picture_missing"


def test_what_is_no_file_is_unreadable_and_nobody_waits_for_it(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    (root / "self.png").symlink_to(root / "self.png")
    (root / "one.png").symlink_to(root / "two.png")
    (root / "two.png").symlink_to(root / "one.png")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(root)  # The path of a socket is short.
    try:
        listening.bind("socket.png")
        for name in ("pipe", "folder", "self", "one", "socket"):
            assert kind(root, f"{name}.png") == "picture_unreadable"
        assert kind(root, ".") == "picture_unreadable"
    finally:
        os.chdir(here)
        listening.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_not_opened(root: Path) -> None:
    try:
        os.mknod(root / "zero.png", 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container makes no devices")
    assert kind(root, "zero.png") == "picture_unreadable"


def test_a_file_that_may_not_be_read_is_unreadable(public: Path) -> None:
    (public / "a.png").write_bytes(png())
    (public / "a.png").chmod(0)
    with unprivileged():
        picture = read_named("a.png", public, "a.png")
    assert picture.error_kind == "picture_unreadable"
    assert picture.error == "a.png cannot be read: Permission denied"


def test_a_name_that_no_file_can_have_is_unreadable(root: Path) -> None:
    assert kind(root, "x" * 5000) == "picture_unreadable"


def test_a_file_of_too_many_bytes_is_refused_unread(root: Path) -> None:
    with (root / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    picture = read_named("s", root, "sparse.png")
    assert picture.error_kind == "picture_too_large"
    assert picture.error == "s is a file of 1099511627776 bytes, more than 268435456"


def test_a_file_of_exactly_the_limit_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_FILE_BYTES", len(png()))
    assert kind(root, "a.png") is None
    monkeypatch.setattr(base, "MAX_FILE_BYTES", len(png()) - 1)
    assert kind(root, "a.png") == "picture_too_large"


def test_a_file_that_grows_while_it_is_read_is_no_picture(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = os.fstat

    def earlier(handle: int) -> os.stat_result:
        found = true(handle)
        with (root / "a.png").open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", earlier)
    assert kind(root, "a.png") == "picture_unreadable"
