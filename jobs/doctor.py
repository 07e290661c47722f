"""doctor: what is wrong here, and the command that mends it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import explain
from lmmsteer import config as configs
from lmmsteer import device
from lmmsteer.config import DoctorConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cluster
from lmmsteer.fleet.launcher import Member
from lmmsteer.models import families, files
from lmmsteer.store import open_store

NEEDED = ("torch", "transformers", "ray", "pyarrow", "hydra-core", "polars", "vaderSentiment")


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, what was seen, what mends it."""

    check: str
    ok: bool
    seen: str
    mend: str = ""


def run(members: list[Member]) -> int:
    """Every check is made, whatever the others found; exit code 1 where one failed."""
    if members[0].config is None:
        raise explain.sentence(members[0].error or ValueError("no config"), "doctor")
    asked = configs.typed(members[0].config, DoctorConfig, "")
    checks: dict[str, Callable[[DoctorConfig], str]] = {
        "python": _python,
        "packages": _packages,
        "device": _device,
        "model files": _model,
        "storage": _storage,
        "ray": _ray,
    }
    findings = [_look(name, check, asked) for name, check in checks.items()]
    if asked.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{'ok' if finding.ok else 'WRONG':5} {finding.check}: {finding.seen}")
            if finding.mend:
                print(f"      {finding.mend}")
    return 0 if all(finding.ok for finding in findings) else 1


def _look(name: str, check: Callable[[DoctorConfig], str], asked: DoctorConfig) -> Finding:
    try:
        return Finding(name, True, check(asked))
    except LmmsteerError as error:
        return Finding(name, False, error.what, error.mend)


def _python(_: DoctorConfig) -> str:
    if not (3, 10) <= tuple(map(int, platform.python_version_tuple()[:2])) < (3, 14):
        raise LmmsteerError(
            f"Python {platform.python_version()} is not supported.", "Use Python 3.10 to 3.13."
        )
    return platform.python_version()


def _packages(_: DoctorConfig) -> str:
    found, absent = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        raise LmmsteerError(
            f"Not installed: {', '.join(absent)}.", f"pip install {' '.join(absent)}"
        )
    return ", ".join(found)


def _device(asked: DoctorConfig) -> str:
    found = device.detect(asked.device.kind)
    used, total = found.memory()
    return f"{found.name()}, {used / 2**30:.1f} of {total / 2**30:.1f} GiB in use"


def _model(asked: DoctorConfig) -> str:
    folder = files.locate(asked.model.path, asked.model.revision)
    files.check(folder)
    config = files.config(folder)
    family = families.family_of(str(config.get("model_type")), asked.model.family)
    size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    return (
        f"{asked.model.path}: {family.name}, {files.n_layers(folder)} layers,"
        f" d_model {files.d_model(folder)}, {size / 2**20:.0f} MiB"
    )


def _storage(asked: DoctorConfig) -> str:
    if asked.out is None:
        return "not asked (out=FOLDER checks one)"
    store = open_store(asked.out)
    made = [folder for folder in _folders(store.local("")) if not folder.exists()]
    commit, free = store.commit, store.free()
    with contextlib.suppress(OSError):  # a run that began meanwhile may need them
        for folder in made:
            folder.rmdir()
    room = f", {free / 2**30:.0f} GiB free" if free is not None else ""
    return f"{store.root} can be written{room}; a part is committed by: {commit}"


def _folders(root: Path | None) -> list[Path]:
    return [] if root is None else [root, *root.parents]


def _ray(asked: DoctorConfig) -> str:
    with cluster.joined(asked.cluster, asked.device, 1) as ray:
        have = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU", "HPU")}
        return f"{len(ray.nodes())} node, {have}, version {ray.__version__}"
