"""What a browser is told that a file is, by the end of its name."""

from __future__ import annotations

from pathlib import PurePosixPath

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".parquet": "application/octet-stream",
}


def kind_of(path: str) -> str | None:
    """The content type of a file; None where nothing is known of its kind."""
    return KINDS.get(PurePosixPath(path).suffix)
