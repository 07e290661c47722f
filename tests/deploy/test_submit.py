"""`ray job submit`, as on a cluster: two nodes, token authentication, stopped, submitted again.

Needs ray[default], which lmmsteer does not: `make test-submit` puts it into a folder of its own.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fleet.runs import events, of, parts, run, wait_for

ROOT = Path(__file__).parent.parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
IMAGES = 20
SHARDS = 2 * IMAGES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None, reason="needs ray[default]: make test-submit"
)


@dataclass
class Cluster:
    """A head and one more node, of one core each; `environment` is that of who may use it."""

    environment: dict[str, str]
    dashboard: str

    def ray(self, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **changed}
        command = [*RAY, *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, cwd=ROOT
        )

    def job(self, verb: str, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return self.ray("job", verb, "--address", self.dashboard, *words, **changed)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="s"))  # Short: Ray's sockets lie in it.
    gcs, dashboard, *agents = ports(6)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(":")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray"]
    node = [f"--address=127.0.0.1:{gcs}"]
    common = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for role, (listen, grpc) in zip((head, node), (agents[:2], agents[2:]), strict=True):
            own = [f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}"]
            with (folder / "log").open("ab") as log:
                command = [*RAY, "start", "--block", *role, *common, *own]
                started.append(
                    subprocess.Popen(
                        command, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
            wait_for(lambda: answers(gcs), 120)
        made = Cluster(environment, f"http://127.0.0.1:{dashboard}")
        wait_for(lambda: made.job("list").returncode == 0, 240)
        address = f"127.0.0.1:{gcs}"
        wait_for(lambda: made.ray("status", "--address", address).stdout.count("node_") >= 2, 240)
        yield made
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def ports(count: int) -> list[int]:
    """Free ones, different from each other."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return found


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def words(out: Path) -> list[str]:
    """A study of the demo LMM, of a picture a shard."""
    return [
        *(
            "-m",
            "lmmsteer",
            "generate",
            "-m",
            "method=unsteered,random_direction",
            "attribute=gender",
        ),
        *(f"dataset.images={IMAGES}", "shard_images=1", "seeds=[0]", "prompts=open5"),
        *("sampling.max_new_tokens=16", f"out={out}"),
    ]


def status(cluster: Cluster, job: str) -> str:
    done = cluster.job("status", job)
    return done.stdout + done.stderr


def test_who_has_no_token_may_neither_look_nor_submit(cluster: Cluster) -> None:
    others = ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"})
    for other in others:
        for verb in (["list"], ["submit", "--no-wait", "--", "true"]):
            done = cluster.job(*verb, **other)
            assert done.returncode != 0
            assert "authentication is enabled" in done.stderr


def test_a_stopped_job_submitted_again_is_complete_and_its_answers_are_those_of_a_plain_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    command = [sys.executable, *words(out)]
    first = cluster.job("submit", "--no-wait", "--submission-id", "first", "--", *command)
    assert first.returncode == 0, first.stdout + first.stderr
    wait_for(lambda: parts(out), 240)
    stopped = cluster.job("stop", "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "STOPPED" in status(cluster, "first").upper()
    half = parts(out)
    assert 0 < len(half) < SHARDS
    logs = cluster.job("logs", "first").stdout
    assert "Stopping: open shards have 15 s to end" in logs  # Not killed: it has drained.

    again = cluster.job("submit", "--submission-id", "again", "--", *command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "SUCCEEDED" in status(cluster, "again").upper()
    assert half.items() <= parts(out).items()

    subprocess.run([sys.executable, *words(plain), "cluster.workers=1"], cwd=ROOT, check=True)
    assert len(parts(out)) == SHARDS
    assert parts(out) == parts(plain)
    run(of("verify", out))
    assert len({event["node"] for event in events(out, "worker")}) == 2


def test_a_refused_command_is_a_failed_job_that_says_why(cluster: Cluster, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lmmsteer",
        "generate",
        "method=nosuch",
        f"out={tmp_path / 'out'}",
    ]
    done = cluster.job("submit", "--submission-id", "refused", "--", *command)
    assert done.returncode != 0
    assert "FAILED" in status(cluster, "refused").upper()
    assert "nosuch" in cluster.job("logs", "refused").stdout
