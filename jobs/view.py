"""view: the report in a browser, with the manifest's pictures in full size."""

from __future__ import annotations

import webbrowser

from analysis import view
from jobs import explain
from lmmsteer import config as configs
from lmmsteer.config import ViewConfig
from lmmsteer.fleet.launcher import Member
from lmmsteer.store import open_store


def run(members: list[Member]) -> int:
    """Serve until Ctrl-C; exit code 0 then."""
    if members[0].config is None:
        raise explain.sentence(members[0].error or ValueError("no config"), "view")
    asked = configs.typed(members[0].config, ViewConfig, "")
    server = view.server(open_store(asked.out), asked.host, asked.port, print)
    with server:
        port = server.server_address[1]
        address = f"http://{_written(asked.host)}:{port}/"
        print(f"{address} shows the report of {asked.out}. Ctrl-C ends it.", flush=True)
        print(_reach(asked.host, port), flush=True)
        if asked.open:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _written(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def _reach(host: str, port: int) -> str:
    """Who can see it."""
    if view.is_loopback(host):
        return f"From another machine: ssh -L {port}:{_written(host)}:{port} THIS_MACHINE"
    return "Whoever reaches this machine can see answers and pictures; host=127.0.0.1 ends that."
