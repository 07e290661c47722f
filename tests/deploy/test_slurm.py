"""The Slurm script: by itself, with a stand-in of srun, and on two nodes that are namespaces."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.crd import DEPLOY
from tests.fleet.runs import PICTURES, events, line, of, parts, photos, run, wait_for

ROOT = DEPLOY.parent
SCRIPT = str(DEPLOY / "slurm.sh")
STAND_INS = Path(__file__).parent / "slurm"
NODES = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1"}


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def dry(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which srun notes its command and runs what comes behind the first `--`."""
    bin, log = tmp_path / "bin", tmp_path / "log"
    program(
        bin, "srun", f'echo "srun $*" >>{log}\nwhile [ "$1" != -- ]; do shift; done\n"${{@:2}}"'
    )
    program(bin, "ray", f'echo "ray $*" >>{log}')
    shutil.copy(STAND_INS / "scontrol", bin)
    yield {**os.environ, **NODES, "PATH": f"{bin}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    assert not list(tmp_path.glob("tmp.*"))  # Nothing is left behind.


def noted(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_job_ends_with_the_code_of_its_run(
    code: int, dry: dict[str, str], tmp_path: Path
) -> None:
    program(
        tmp_path / "bin",
        "lmmsteer",
        f'echo "lmmsteer $RAY_AUTH_MODE $RAY_ADDRESS $*" >>{tmp_path}/log; exit {code}',
    )
    done = subprocess.run([SCRIPT, "generate", "-m", "out=a b"], env=dry, capture_output=True)
    assert done.returncode == code
    assert (b"resume out=" in done.stderr) == bool(code)
    token, step, *_, command = noted(tmp_path)
    assert token == "ray get-auth-token --generate"
    assert step.startswith(
        "srun --nodes=2 --ntasks-per-node=1 ray symmetric-run --address 10.213.7.1:6379"
        " --min-nodes 2 --num-cpus 1 -- env RAY_ADDRESS=10.213.7.1:6379 "
    )
    assert command == "lmmsteer token 10.213.7.1:6379 generate -m out=a b"


def test_the_options_of_symmetric_run_are_its_own(dry: dict[str, str], tmp_path: Path) -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    program(tmp_path / "bin", "lmmsteer", "exit 0")
    subprocess.run([SCRIPT, "status", "out=x"], env=dry, check=True)
    words = shlex.split(noted(tmp_path)[1].partition("symmetric-run ")[2].partition(" -- ")[0])
    assert curate_and_validate_ray_start_args(words) == ["--num-cpus", "1"]


def test_the_signal_of_slurm_reaches_the_run_alone_and_its_end_is_waited_for(
    dry: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    program(
        tmp_path / "bin",
        "lmmsteer",
        f"trap 'sleep 0.5; echo drained >>{log}; exit 1' TERM\necho up >>{log}\n"
        "while :; do sleep 0.1; done",
    )
    job = subprocess.Popen([SCRIPT, "generate", "out=x"], env=dry, stderr=subprocess.DEVNULL)
    wait_for(lambda: log.exists() and "up" in noted(tmp_path), 20)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 1
    assert noted(tmp_path)[-1] == "drained"


def test_where_ray_does_not_start_the_job_fails(dry: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bin", "srun", "exit 0")  # As symmetric-run ends where `ray start` fails.
    done = subprocess.run([SCRIPT, "generate", "out=x"], env=dry, capture_output=True)
    assert done.returncode == 1


def test_without_a_verb_nothing_starts(dry: dict[str, str], tmp_path: Path) -> None:
    assert subprocess.run([SCRIPT], env=dry, capture_output=True).returncode == 2
    assert not (tmp_path / "log").exists()


def test_slurm_signals_the_script_alone_and_early_enough_for_a_drain() -> None:
    from lmmsteer.config import ClusterConfig

    asked = dict(
        text.removeprefix("#SBATCH --").partition("=")[::2]
        for text in Path(SCRIPT).read_text().splitlines()
        if text.startswith("#SBATCH")
    )
    who, seconds = asked["signal"].split("@")
    assert who == "B:TERM"
    assert float(seconds) > 2 * ClusterConfig().drain
    assert asked["ntasks-per-node"] == "1"


def namespaces() -> bool:
    command = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "ip"]
    try:
        return not subprocess.run(
            [*command, "link", "add", "one", "type", "veth", "peer", "name", "two"],
            capture_output=True,
        ).returncode
    except OSError:
        return False


@pytest.mark.skipif(
    "LMMSTEER_DEPLOY" not in os.environ, reason="a minute and more: make test-submit"
)
@pytest.mark.skipif(not namespaces(), reason="needs root, ip and unshare: two nodes are namespaces")
def test_a_job_that_was_signalled_is_resumed_on_two_nodes_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("slurm")
    data, out, plain = photos(folder / "photos"), folder / "out", folder / "plain"
    # Work enough that some of it is left when the signal comes.
    seeds = f"seeds={list(range(24))}".replace(" ", "")
    cells = ("-m", "method=unsteered,random_direction", seeds)
    python, modules, _, *words = line("generate", data, out, *cells)
    bin, signalled = folder / "bin", folder / "signal"
    program(bin, "lmmsteer", f'exec {shlex.quote(python)} {modules} jobs "$@"')
    (folder / "home").mkdir()
    environment = {
        **os.environ,
        **NODES,
        "HOME": str(folder / "home"),
        "PATH": f"{STAND_INS}:{bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    node = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    command = [*node, str(STAND_INS / "slurmd"), str(signalled), SCRIPT]

    def job(*words: str) -> subprocess.Popen[bytes]:
        with (folder / "log").open("a") as log:
            return subprocess.Popen([*command, *words], env=environment, stdout=log, stderr=log)

    first = job(*words)
    try:
        wait_for(lambda: parts(out) or first.poll() is not None, 400)
        signalled.touch()
        assert first.wait(100) == 1
    finally:
        first.kill()  # And with it all processes of both nodes.
    done = parts(out)
    assert 0 < len(done) < 2 * PICTURES
    assert (folder / "home/.ray/auth_token").exists()

    assert job("resume", f"out={out}").wait(400) == 0
    run(line("generate", data, plain, *cells, "cluster.workers=1"))
    assert parts(out) == parts(plain)
    assert done.items() <= parts(out).items()
    run(of("verify", out))
    runs = [event["node"] for event in events(out, "worker")]
    assert len(set(runs)) == 4  # Two nodes of two clusters.
