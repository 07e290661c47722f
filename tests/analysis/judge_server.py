"""A chat-completions server that misbehaves as it is told, in a process of its own.

    python judge_server.py LOG [--key KEY] BEHAVIOUR ...

A question is met with the first behaviour the first time it is asked, with the second the second
time, and so on; the last one repeats. Every request is a line of LOG: the question (a hash of its
body), the behaviour, the seconds since the start. The port is the first line on stdout.
Well behaved, it lists the words man, woman, he, she, her as spans, and says Yes to texts of even
length, No to others.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

WORDS = re.compile(r"\b(man|woman|he|she|her)\b", re.IGNORECASE)
REPLIES: dict[str, dict[str, Any]] = {
    "half": {"content": '{"spans": ["man"'},
    "prose": {"content": "There are two mentions."},
    "schema": {"content": '{"spans": ["man"], "count": -1}'},
    "words": {"content": '{"spans": "man", "count": 1}'},
    "bare": {"content": "3"},
    "extra": {"content": '{"spans": [], "count": 0, "sure": true}'},
    "refusal": {"content": None, "refusal": "I cannot help with that."},
    "nothing": {"content": None},
    "invented": {"content": '{"spans": ["astronaut"], "count": 2}'},
    "perhaps": {"content": "Perhaps."},
}
STATUS = {
    "400": (400, {}),
    "403": (403, {}),
    "404": (404, {}),
    "429": (429, {"Retry-After": "0.3"}),
    "429-bare": (429, {}),
    "429-ms": (429, {"retry-after-ms": "300"}),
    "429-long": (429, {"Retry-After": "3600"}),
    "500": (500, {}),
    "503": (503, {"Retry-After": "0"}),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, log: Path, key: str | None, behaviours: list[str], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.log, self.key, self.behaviours = log, key, behaviours
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.started = time.monotonic()

    def met(self, body: bytes) -> str:
        """The behaviour that a question meets this time."""
        name = hashlib.sha256(body).hexdigest()[:16]
        with self.lock:
            number = self.asked[name]
            self.asked[name] += 1
            behaviour = self.behaviours[min(number, len(self.behaviours) - 1)]
            seconds = round(time.monotonic() - self.started, 3)
            with self.log.open("a") as handle:
                handle.write(json.dumps([name, behaviour, seconds]) + "\n")
        return behaviour

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if len(data) < int(self.headers["Content-Length"]):
            return None  # the client hung up while it asked
        behaviour = self.server.met(data)
        sent = self.headers.get("Authorization", "")
        if self.server.key is not None and sent != f"Bearer {self.server.key}":
            return self._json(401, {"error": {"message": f"Incorrect key: {sent}"}})
        if behaviour in STATUS:
            status, headers = STATUS[behaviour]
            return self._json(status, {"error": {"message": f"no: {sent}"}}, headers)
        if behaviour == "401":
            return self._json(401, {"error": {"message": f"Incorrect API key provided: {sent}"}})
        if behaviour == "429-date":
            later = formatdate(time.time() + 2, usegmt=True)
            return self._json(429, {"error": {"message": sent}}, {"Retry-After": later})
        if behaviour == "quota":
            error = {"message": f"quota {sent}", "code": "insufficient_quota"}
            return self._json(429, {"error": error})
        if behaviour == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.wfile.close()
            self.close_connection = True
            return self.connection.close()
        if behaviour == "hang":
            time.sleep(5)
        return self._answer(behaviour, json.loads(data), sent)

    def _answer(self, behaviour: str, body: dict[str, Any], sent: str) -> None:
        message = {"role": "assistant", **REPLIES.get(behaviour, {"content": good(body)})}
        if behaviour == "echo":  # the key in a reply that is no JSON
            message["content"] = f"your key is {sent.removeprefix('Bearer ')}"
        finish = {"length": "length", "filter": "content_filter"}.get(behaviour, "stop")
        reply: Any = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
        if behaviour == "list":
            reply = ["surprise"]
        text = json.dumps(reply)
        if behaviour == "torn":
            text = text[: len(text) // 2]
        if behaviour == "html":
            text = f"<html>busy {sent}</html>"
        if behaviour == "cut":  # fewer bytes than announced
            return self._send(200, text[:40].encode(), length=len(text))
        if behaviour == "slow":  # never silent for long, and never done
            return self._send(200, text.encode(), pause=0.2)
        if behaviour == "pause":
            time.sleep(0.15)
        return self._send(200, text.encode())

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), headers or {})

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        length: int | None = None,
        pause: float = 0.0,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if pause:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(pause)
        else:
            self.wfile.write(data)
        if length is not None:
            self.close_connection = True


def good(body: dict[str, Any]) -> str:
    """What a judge that does its work says."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        text = content.rpartition("<text>")[2].partition("</text>")[0]
        spans = [match.group() for match in WORDS.finditer(text)]
        assert body["response_format"]["json_schema"]["strict"] is True
        return json.dumps({"spans": spans, "count": len(spans)})
    url = content[0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
    assert max(picture.size) <= 64, "pictures are sent small in the tests"
    text = content[1]["text"].removeprefix("Description: ").partition("\n\nDoes the")[0]
    return "**Yes**, it does." if len(text) % 2 == 0 else "no"


def main() -> None:
    line = argparse.ArgumentParser()
    line.add_argument("log", type=Path)
    line.add_argument("--key")
    line.add_argument("behaviours", nargs="+")
    asked = line.parse_args()
    server = Server(asked.log, asked.key, asked.behaviours)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
