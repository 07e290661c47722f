"""doctor: what is wrong here, and the command that mends it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from jobs import explain
from lmmsteer import config as configs
from lmmsteer import device
from lmmsteer.config import DoctorConfig, EngineConfig
from lmmsteer.demo import people
from lmmsteer.engine import checkup
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cluster, engines
from lmmsteer.fleet.launcher import Member
from lmmsteer.models import families, files
from lmmsteer.models.lmm import Lmm
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
    findings = []
    for finding in _findings(asked):
        findings.append(finding)
        if not asked.json:  # As it is found: a large model takes minutes to load.
            print(f"{'ok' if finding.ok else 'WRONG':5} {finding.check}: {finding.seen}")
            if finding.mend:
                print(f"      {finding.mend}")
    if asked.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(asked: DoctorConfig) -> Iterator[Finding]:
    checks: dict[str, Callable[[DoctorConfig], str]] = {
        "python": _python,
        "packages": _packages,
        "device": _device,
        "storage": _storage,
        "ray": _ray,
    }
    for name, check in checks.items():
        yield _look(name, partial(check, asked))
    yield from _model_findings(asked)


def _look(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except LmmsteerError as error:
        return Finding(name, False, " ".join(error.what.split()), error.mend)


def _model_findings(asked: DoctorConfig) -> Iterator[Finding]:
    """The model's files; where these are well, the model: loaded, then each check."""
    files_well = _look("model files", partial(_model, asked))
    yield files_well
    if not (files_well.ok and asked.weights):
        return
    loaded: list[Lmm] = []

    def load() -> str:
        model, used = asked.model, device.detect(asked.device.kind)
        name = model.name or Path(model.path).name
        lmm = checkup.loaded(name, model.path, model.revision, model.dtype, model.family, used)
        loaded.append(lmm)
        size = sum(weight.numel() for weight in lmm.model.parameters())
        return f"{size / 1e6:,.1f} million, {str(lmm.dtype).removeprefix('torch.')}"

    yield _look("model weights", load)
    if not loaded:
        return
    (lmm,) = loaded
    kind = "reference" if lmm.device.kind == "hpu" else "shared"
    engine = engines.open_engine(EngineConfig(name=kind, slots=4))
    picture = people.draw(next(people.counterfactual_sets(1)))
    checks: dict[str, Callable[[Lmm, Image.Image], str]] = {
        "template": checkup.check_prompt,
        "picture": checkup.check_picture,
        "residual stream": checkup.check_residual,
        "prefix sharing": checkup.check_sharing,
        "answer": partial(checkup.check_answer, engine=engine),
    }
    for name, check in checks.items():
        yield _look(name, partial(check, lmm, picture))


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
