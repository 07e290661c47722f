"""Fixtures that several rooms share: photographs on disk, and the command line in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import photographs

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three real photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "cat", "coffee"):
        photographs()[name].resize((120, 90)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """lmmsteer VERB ARGUMENTS in this process: exit code, standard output, standard error."""
    from jobs.__main__ import main

    monkeypatch.setattr(sys, "argv", ["lmmsteer"])
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes first: they take longest, and others fill the gaps behind them."""
    items.sort(key=lambda item: "tests/fleet" not in item.path.as_posix())


def png(color: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    """The bytes of a small picture of one colour."""
    sink = io.BytesIO()
    Image.new("RGB", size, color).save(sink, "PNG")
    return sink.getvalue()
