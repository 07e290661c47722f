"""The wheel of an sdist in an environment of its own, from an empty folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
BUILT_OF = ("lmmsteer", "jobs", "analysis", "conf", "hydra_plugins")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of an sdist of a copy, so that nothing is left behind in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in BUILT_OF:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", SDIST, folder, cwd=source)
    (packed,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    run(*pip, "-q", "-w", folder, packed, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment: the wheel, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("env") / "venv"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={folder}")
    run(*pip, "install", "-q", "--no-deps", wheel, cwd=folder)
    return folder / "bin"


def test_nothing_of_ours_but_lmmsteer_and_hydras_own_folder_lies_in_site_packages(
    wheel: Path,
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"lmmsteer", "hydra_plugins"}
    for needed in ("conf/generate.yaml", "analysis/templates", "jobs/generate.py"):
        assert any(name.startswith(f"lmmsteer/_top/{needed}") for name in names)
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert kept <= {name.removeprefix("lmmsteer/_top/") for name in names}
    assert "lmmsteer/demo/model/model.safetensors" in names


def test_from_an_empty_folder_the_command_answers_and_reports(
    installed: Path, tmp_path: Path
) -> None:
    steer = installed / "lmmsteer"
    assert "demo-data" in run(steer, "--help", cwd=tmp_path)
    said = run(installed / "python", "-m", "lmmsteer", "doctor", cwd=tmp_path)
    assert "demo" in said
    out = "out=runs/study"
    run(steer, "generate", "method=blocklist", "attribute=gender", "limit=2", out, cwd=tmp_path)
    run(steer, "analyze", "analysis=mentions", out, cwd=tmp_path)
    run(steer, "report", out, cwd=tmp_path)
    assert (tmp_path / "runs/study/report/report.html").is_file()
    assert not (tmp_path / "conf").exists()
