"""Serves a report and its pictures to a browser: out/report, and the manifest's pictures whole.

Read only, and for this machine: it binds to loopback unless told otherwise, and answers only those
who ask for it by a name of this machine, so that a page from elsewhere cannot read it by pointing a
name of its own here. What is served are the files of out/report of the kinds that a report has, and
pictures by data set and image id; no path leads out of the report's folder.
"""

from __future__ import annotations

import io
import ipaddress
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from analysis import thumbnail
from analysis.pictures import Originals
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store
from lmmsteer.store.kinds import kind_of

PAGE = "report.html"
PICTURES = "pictures/"
SHOWN = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n": "image/png", b"GIF8": "image/gif"}
ALONE = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # A picture runs nothing.
NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")  # no step that begins with a dot
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Served:
    """What an address shows."""

    kind: str
    data: bytes


class Site:
    """What is served of an output folder.

    Raises: LmmsteerError where there is no report.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pictures = Originals(store)
        if not store.exists(f"report/{PAGE}"):
            raise LmmsteerError(
                f"{store.root} has no report.", f"Make it: lmmsteer report out={store.root}"
            )

    @cached_property
    def datasets(self) -> frozenset[str]:
        steps = (path.split("/") for path in self.store.list("manifest"))
        return frozenset(s[1].removeprefix("dataset=") for s in steps if len(s) > 2)

    def find(self, address: str) -> Served | None:
        """What lies at the path of an address; None where nothing does."""
        path = urlsplit(address).path.removeprefix("/") or PAGE
        if path == "favicon.ico":
            return Served("image/x-icon", b"")  # Browsers ask; there is none.
        if path.startswith(PICTURES):
            return self._picture(*map(unquote, path.removeprefix(PICTURES).partition("/")[::2]))
        return self._file(unquote(path))

    def _file(self, path: str) -> Served | None:
        kind = kind_of(path)
        if kind is None or not NAME.fullmatch(path) or not self.store.exists(f"report/{path}"):
            return None
        data = self.store.read_bytes(f"report/{path}")
        return Served(kind, _with_pictures(data) if path == PAGE else data)

    def _picture(self, dataset: str, image_id: str) -> Served | None:
        if dataset not in self.datasets:
            return None
        data = self.pictures.read(dataset, image_id)
        return None if data is None else shown(data)


def shown(data: bytes) -> Served | None:
    """A picture as browsers show it: its own bytes, or as PNG where they do not know its format."""
    for first, kind in SHOWN.items():
        if data.startswith(first):
            return Served(kind, data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Served("image/webp", data)
    image = thumbnail.opened(data)
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return Served("image/png", buffer.getvalue())


def _with_pictures(page: bytes) -> bytes:
    """The page, told where whole pictures are."""
    told = f'<html lang="en" data-pictures="{PICTURES}">'
    return page.replace(b'<html lang="en">', told.encode(), 1)


def server(store: Store, host: str, port: int, say: Callable[[str], None]) -> ThreadingHTTPServer:
    """A server that is bound and not yet serving; port 0 takes a free one.

    say: told of a picture or a file that could not be read.
    Raises: LmmsteerError where there is no report, or where the address cannot be bound.
    """
    about = {"site": Site(store), "names": {"localhost", host.lower()}, "say": staticmethod(say)}
    handler = type("Handler", (_Handler,), about)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("Server", (_Server,), {"address_family": family, "say": staticmethod(say)})
    try:
        return kind((host, port), handler)
    except (OSError, OverflowError) as error:
        raise LmmsteerError(
            f"{host} port {port} cannot be used: {str(error).rstrip('.')}.",
            "Take a free port: port=0, or another address of this machine: host=127.0.0.1",
        ) from error


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    say: Callable[[str], None]

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is not news; anything else is."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            self.say(f"An answer failed: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD."""

    site: Site
    names: set[str]
    say: Callable[[str], None]
    timeout = 30  # seconds that a silent connection keeps a thread
    server_version, sys_version = "lmmsteer", ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if not self._asked_here():
            self._send(HTTPStatus.FORBIDDEN, _plain("That is not a name of this server."), body)
            return
        try:
            found = self.site.find(self.path)
        except (LmmsteerError, OSError) as error:
            self.say(str(error))
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _plain(str(error)), body)
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, _plain("Nothing is here."), body)
            return
        self._send(HTTPStatus.OK, found, body)

    def _asked_here(self) -> bool:
        """Whether the Host header is an address (no name can be pointed at us) or a known name."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if host in self.names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def _send(self, status: HTTPStatus, served: Served, body: bool) -> None:
        self.send_response(status)
        headers = {"Content-Type": served.kind, "Content-Length": str(len(served.data))}
        if served.kind.startswith("image/"):
            headers["Content-Security-Policy"] = ALONE
        for name, value in {**headers, **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(served.data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: every picture that is looked at is not news."""


def _plain(text: str) -> Served:
    return Served("text/plain; charset=utf-8", f"{text}\n".encode())
