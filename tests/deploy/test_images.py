"""The images: what they are made from, who runs in them, what their steps would install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deploy.crd import DEPLOY

ROOT = DEPLOY.parent
HADOLINT = Path(sys.executable).parent / "hadolint"
ONLINE = pytest.mark.skipif(
    "LMMSTEER_DEPLOY" not in os.environ, reason="asks a package index: make test-submit"
)


@pytest.fixture(params=sorted(DEPLOY.glob("Dockerfile.*")), ids=lambda path: path.name)
def steps(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    return read(request.param)


def read(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, comments left out and continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    words = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in words]


def ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line[0] != "#"]


def of(steps: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in steps if name == word]


def test_the_base_is_pinned_by_a_tag_that_names_a_version(steps: list[tuple[str, str]]) -> None:
    (base,) = of(steps, "FROM")
    tag = base.rpartition("/")[2].partition(":")[2]
    assert re.match(r"\d+\.\d+\.\d+", tag), base


@pytest.mark.skipif(not HADOLINT.exists(), reason="there is no hadolint for this platform")
def test_hadolint_has_nothing_to_say() -> None:
    recipes = sorted(DEPLOY.glob("Dockerfile.*"))
    assert len(recipes) == 2
    command = [HADOLINT, "--no-color", "--failure-threshold", "warning", *recipes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nothing_is_fetched_but_by_the_package_managers(steps: list[tuple[str, str]]) -> None:
    assert not of(steps, "ADD")
    assert not [rest for _, rest in steps if "://" in rest or "curl" in rest or "wget" in rest]


def test_it_runs_as_a_user_of_its_own_and_says_how_it_does(steps: list[tuple[str, str]]) -> None:
    words = [word for word, _ in steps]
    (user,) = of(steps, "USER")  # By its number, as Kubernetes's runAsNonRoot wants to see it.
    assert any(f"--uid {user} ray" in run for run in of(steps, "RUN"))
    assert int(user) >= 1000
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert steps[-1][0] == "CMD"
    assert '"lmmsteer", "doctor"' in steps[-1][1]
    assert not of(steps, "ENTRYPOINT")  # KubeRay and `ray up` start shells in it.


def test_no_cache_stays_in_a_layer(steps: list[tuple[str, str]]) -> None:
    for run in of(steps, "RUN"):
        assert "pip install" not in run or "--no-cache-dir" in run
        assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists/*" in run


def test_token_authentication_is_on(steps: list[tuple[str, str]]) -> None:
    assert any("RAY_AUTH_MODE=token" in rest for rest in of(steps, "ENV"))
    assert not any(re.search("TOKEN=|SECRET|KEY", rest) for rest in of(steps, "ENV"))


def test_versions_are_those_of_the_constraints(steps: list[tuple[str, str]]) -> None:
    pins = dict(re.findall(r"^(\S+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.M))
    for run in of(steps, "RUN"):
        for name, version in re.findall(r"(?:^|[\s'])([a-z]+)(?:\[[a-z]+\])?==([\d.]+)", run):
            assert pins[name] == version


def test_all_that_is_copied_is_there_and_is_sent_to_the_builder(
    steps: list[tuple[str, str]],
) -> None:
    sent = [line[1:] for line in ignored() if line[0] == "!"]
    copied = [word for rest in of(steps, "COPY") for word in rest.split()[:-1] if word[0] != "-"]
    for name in copied:
        assert (ROOT / name).exists()
        assert name in sent
    named = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert named - {"tests"} <= set(copied)


def test_nothing_else_is_sent_to_the_builder() -> None:
    first, *others = ignored()
    assert first == "*"
    for name in (".git", ".venv", "runs"):
        assert not any(fnmatch(name, line[1:]) for line in others)


@ONLINE
@pytest.mark.parametrize(
    ("python", "wants"),
    [
        ("3.11", ["-c", "constraints.txt", "torch==2.13.0", "ray[default]==2.60.0"]),
        ("3.10", ["torch==2.10.0", "numpy==1.26.4", "ray[default]==2.60.0", ".[hpu]"]),
    ],
    ids=["cuda", "gaudi"],
)
def test_what_the_steps_install_fits_together(
    python: str, wants: list[str], tmp_path: Path
) -> None:
    """torch and numpy of the Gaudi base stand for Habana's own builds of these versions."""
    pip = [sys.executable, "-m", "pip"]
    source = ["antlr4-python3-runtime==4.9.3"]  # Hydra's, of which there is no wheel.
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", tmp_path, *source], check=True)
    only = ["--python-version", python, "--only-binary=:all:", "--find-links", tmp_path]
    install = [*pip, "install", "-q", "--dry-run", "--target", tmp_path / "to", *only]
    done = subprocess.run([*install, *wants, ".[judge]"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@ONLINE
def test_the_program_is_whole_where_it_is_installed_from_what_is_copied(tmp_path: Path) -> None:
    for name in ("lmmsteer", "jobs", "analysis", "conf", "hydra_plugins"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path], check=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        subprocess.run(["cp", ROOT / name, tmp_path], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, tmp_path / "site", "."], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-m", "lmmsteer", "doctor", f"out={tmp_path / 'out'}"],
        cwd=tmp_path / "site",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo" in done.stdout
