"""A real S3 server (moto's, a process of its own), and a proxy before it that can misbehave."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Fault = Callable[["Exchange"], None]


@contextlib.contextmanager
def moto() -> Iterator[int]:
    """The port of a server that keeps buckets in its memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=60).close()
                break
            time.sleep(0.1)
        assert process.poll() is None, "moto's server did not start"
        yield port
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request on its way through the proxy."""

    protocol_version = "HTTP/1.1"
    server: Proxy  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def pass_on(self) -> None:
        fault = self.server.next_fault(self.command, self.path)
        (fault or forward)(self)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def fetch(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server behind says to this request."""
        dropped = ("transfer-encoding", "expect", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        link = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        try:
            link.request(self.command, self.path, self.body(), headers)
            answer = link.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            link.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks: list[bytes] = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        head = self.command == "HEAD"
        self.send_header("Content-Length", lengths[0] if head and lengths else str(len(body)))
        self.end_headers()
        if not head:
            self.server.faults.sent += len(body)
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def forward(exchange: Exchange) -> None:
    exchange.answer(*exchange.fetch())


def refuse(status: int, code: str) -> Fault:
    """An answer of S3's form, without asking the server behind."""

    def fault(exchange: Exchange) -> None:
        exchange.body()
        text = f"<Error><Code>{code}</Code><Message>as the test asks</Message></Error>"
        exchange.answer(status, [("Content-Type", "application/xml")], text.encode())

    return fault


def do_and_refuse(status: int, code: str) -> Fault:
    """What was asked is done, and the answer says that it was not."""

    def fault(exchange: Exchange) -> None:
        exchange.fetch()
        text = f"<Error><Code>{code}</Code><Message>as the test asks</Message></Error>"
        exchange.answer(status, [("Content-Type", "application/xml")], text.encode())

    return fault


def do_and_reset(exchange: Exchange) -> None:
    """What was asked is done, and the line is cut before the answer."""
    exchange.fetch()
    reset(exchange)


def reset(exchange: Exchange) -> None:
    linger = struct.pack("ii", 1, 0)
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    exchange.close_connection = True
    exchange.connection.close()


def trickle(exchange: Exchange) -> None:
    """The right answer, a few bytes at a time."""
    status, headers, body = exchange.fetch()
    exchange.send_response_only(status)
    for name, value in headers:
        if name.lower() not in ("content-length", "transfer-encoding", "connection"):
            exchange.send_header(name, value)
    exchange.send_header("Content-Length", str(len(body)))
    exchange.end_headers()
    for start in range(0, len(body), 5):
        exchange.wfile.write(body[start : start + 5])
        exchange.wfile.flush()
        time.sleep(0.01)


@dataclass
class Planned:
    method: str
    part: str
    faults: list[Fault | None]


@dataclass
class Faults:
    """What is to go wrong, in order; and every request that came."""

    planned: list[Planned] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0  # bytes of bodies that went to who asked

    def plan(self, method: str, part: str, *faults: Fault | None) -> None:
        """The next requests of a method whose path holds `part`; None is one that goes well."""
        self.planned.append(Planned(method, part, list(faults)))

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path in self.seen)


class Proxy(http.server.ThreadingHTTPServer):
    """Listens on a free port of this machine, and passes requests on to another."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.behind = behind
        self.faults = Faults()
        self.lock = threading.Lock()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.faults.seen.append((method, path))
            for planned in self.faults.planned:
                if planned.method == method and planned.part in path and planned.faults:
                    return planned.faults.pop(0)
        return None

    def handle_error(self, request: object, client_address: object) -> None: ...


@contextlib.contextmanager
def proxy(behind: int) -> Iterator[tuple[int, Faults]]:
    server = Proxy(behind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], server.faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
