"""The card a worker runs on: cpu, cuda or hpu. The only home of Habana imports.

Knows what Ray must reserve for a worker, but not Ray itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from lmmsteer.errors import LmmsteerError

Kind = Literal["cpu", "cuda", "hpu"]
MODES = ("lazy", "eager", "compile")  # Of Gaudi cards.
COMPILING = "LMMSTEER_HPU_COMPILE"  # 1: eager mode with compiled steps.
RECIPE_MB = 10240  # The most that compiled graphs take on disk.
ADAPTED = "optimum.habana"  # The package whose models stand in for transformers' own.
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
STATUS = Path("/proc/self/status")
CLEAR_PEAK = Path("/proc/self/clear_refs")  # Linux: "5" resets the peak of resident memory.
STACK = ("torch", "transformers", "tokenizers", "numpy", "pillow", "safetensors")


@dataclass(frozen=True)
class Device:
    """One accelerator, or the processor of this machine; a worker is pinned to exactly one."""

    kind: Kind

    def torch_device(self) -> torch.device:
        """The device as torch names it; the first one visible, since Ray hides the others."""
        if self.kind == "hpu":
            return hpu_device()
        return torch.device("cpu") if self.kind == "cpu" else torch.device(self.kind, 0)

    @property
    def mode(self) -> str | None:
        """How a Gaudi card works, one of MODES; None for other devices."""
        if self.kind != "hpu":
            return None
        if os.environ.get("PT_HPU_LAZY_MODE", "1") == "1":
            return "lazy"
        return "compile" if os.environ.get(COMPILING) == "1" else "eager"

    @property
    def lazy(self) -> bool:
        """Whether this is a Gaudi card in lazy mode, where steps are recorded as HPU graphs."""
        return self.mode == "lazy"

    @property
    def records(self) -> bool:
        """Whether this is a Gaudi card that makes a graph of a step: recorded, or compiled."""
        return self.mode in ("lazy", "compile")

    def dtype(self, name: str = "auto", checkpoint: torch.dtype | None = None) -> torch.dtype:
        """The dtype that `model.dtype` asks for.

        auto: float32 on cpu; elsewhere the checkpoint's own where it has 16 bits, else bfloat16.
        Raises: LmmsteerError for a name other than auto, float32, bfloat16, float16.
        """
        if name in DTYPES:
            return DTYPES[name]
        if name != "auto":
            raise LmmsteerError(
                f"model.dtype={name} is not a dtype lmmsteer knows.",
                f"Use one of model.dtype=auto|{'|'.join(sorted(DTYPES))}",
            )
        if self.kind == "cpu":
            return torch.float32
        return checkpoint if checkpoint in (torch.bfloat16, torch.float16) else torch.bfloat16

    def ray_resources(self, cpus: float = 1) -> dict[str, Any]:
        """The options of a Ray actor that holds this device; cpus: cores of a cpu worker."""
        if self.kind == "cuda":
            return {"num_gpus": 1}
        if self.kind == "hpu":
            return {"resources": {"HPU": 1}}
        return {"num_cpus": cpus}

    def count(self) -> int:
        """Cards of this kind on this machine; a cpu is one."""
        if self.kind == "cuda":
            return torch.cuda.device_count()
        return int(_hpu().device_count()) if self.kind == "hpu" else 1

    def name(self) -> str:
        """The card's name, for example `NVIDIA H200`, or `cpu`."""
        if self.kind == "cuda":
            return torch.cuda.get_device_name(0)
        if self.kind == "hpu":
            return str(_hpu().get_device_name())
        return "cpu"

    def memory(self) -> tuple[int, int]:
        """Bytes in use and bytes in all: of the card, or of this machine."""
        if self.kind == "cuda":
            free, total = torch.cuda.mem_get_info(0)
            return total - free, total
        if self.kind == "hpu":
            free, total = _hpu().mem_get_info()
            return total - free, total
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
        return (total - free) * page, total * page

    def watch_memory(self) -> None:
        """From now on `peak_memory` looks for a new peak."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif self.kind == "hpu":
            _hpu().reset_peak_memory_stats()
        else:
            with suppress(OSError):
                CLEAR_PEAK.write_text("5")

    def peak_memory(self) -> int | None:
        """Bytes that tensors took at the most on the card, or that this process had resident, since
        `watch_memory` (a processor's: since the process began, where its system resets no peaks).

        None where the system does not say.
        """
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated()
        if self.kind == "hpu":
            return int(_hpu().max_memory_allocated())
        with suppress(OSError):
            for line in STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None

    def synchronize(self) -> None:
        """Wait until the device has done what it was given; needed before reading a clock."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "hpu":
            _hpu().synchronize()

    def compiled_graphs(self) -> int:
        """Graphs that Gaudi's compiler has made in this process; 0 on other devices.

        Source: the metric `graph_compilation` of Habana's bridge.
        """
        if self.kind != "hpu":
            return 0
        metrics = importlib.import_module("habana_frameworks.torch.hpu.metrics")
        return int(dict(metrics.metric_global("graph_compilation").stats())["TotalNumber"])

    def versions(self) -> dict[str, str]:
        """Versions that can change an answer's last bits: Python, libraries, card and driver."""
        found = {"python": platform.python_version(), "device": self.kind, "card": self.name()}
        found |= {package: importlib.metadata.version(package) for package in STACK}
        if self.kind == "cuda":
            found["cuda"] = str(torch.version.cuda)
        if self.kind == "hpu":
            found["habana"] = importlib.metadata.version("habana-torch-plugin")
            found["mode"] = str(self.mode)
        return found


def detect(kind: str = "auto") -> Device:
    """The device of this process; auto takes an accelerator where there is one.

    Raises: LmmsteerError where the kind asked for is not on this machine.
    """
    if kind not in ("auto", *get_args(Kind)):
        raise LmmsteerError(
            f"device.kind={kind} is not a kind of device.", "Use device.kind=auto|cuda|hpu|cpu"
        )
    for candidate, present in (("cuda", torch.cuda.is_available), ("hpu", _has_hpu)):
        if kind in ("auto", candidate) and present():
            return Device(candidate)  # type: ignore[arg-type]
    if kind in ("auto", "cpu"):
        return Device("cpu")
    need = {
        "cuda": "a CUDA build of torch and a visible NVIDIA card",
        "hpu": "a Gaudi card and Habana's torch plugin",
    }
    raise LmmsteerError(
        f"device.kind={kind} needs {need[kind]}, and this machine has none.",
        "Use device.kind=cpu, or device.kind=auto to take what is there",
    )


def hpu_device() -> torch.device:
    """Where kind hpu places tensors."""
    return torch.device("hpu", 0)


def prepare_hpu(mode: str | None, recipes: str | None) -> None:
    """Tell Habana's bridge how to work; it listens only before it is imported.

    mode: `lazy` (graphs gathered, compiled and replayed; the default), `eager` (operation by
    operation) or `compile` (eager, but a step is compiled by torch.compile). recipes: a folder on a
    local disk where compiled graphs are kept for the next run.
    Raises: LmmsteerError for another mode, or one that comes too late.
    """
    if mode not in (None, *MODES):
        raise LmmsteerError(
            f"device.mode={mode} is not a mode of Gaudi cards.",
            f"Use device.mode={'|'.join(MODES)}",
        )
    wanted = {"PT_HPU_LAZY_MODE": "0" if mode in ("eager", "compile") else "1"}
    if recipes is not None:
        Path(recipes).expanduser().mkdir(parents=True, exist_ok=True)
        kept = Path(recipes).expanduser().resolve()
        wanted["PT_HPU_RECIPE_CACHE_CONFIG"] = f"{kept},False,{RECIPE_MB}"
    late = [key for key, value in wanted.items() if os.environ.get(key) != value]
    if late and "habana_frameworks.torch.core" in sys.modules and mode is not None:
        raise LmmsteerError(
            f"Habana's bridge runs in this process already, so {late[0]} cannot be changed.",
            "Start a new process, or set it in the environment",
        )
    os.environ.update(wanted)
    os.environ[COMPILING] = "1" if mode == "compile" else "0"


def adapt() -> None:
    """transformers' models become optimum-habana's, for the rest of this process.

    Raises: LmmsteerError where optimum-habana is not installed.
    """
    if adapted():
        return
    try:
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # It tells of each kernel that is not there.
            made = importlib.import_module(f"{ADAPTED}.transformers.modeling_utils")
            made.adapt_transformers_to_gaudi()
    except ImportError as error:
        raise LmmsteerError(
            f"engine=reference on Gaudi cards needs optimum-habana, which is not here: {error}.",
            "pip install -c constraints-hpu.txt 'lmmsteer[hpu]', or use engine=shared",
        ) from error


def adapted() -> bool:
    """Whether `adapt` was called in this process: generate is optimum-habana's then."""
    mixin: Any = importlib.import_module("transformers").GenerationMixin
    return mixin.generate.__module__.startswith(ADAPTED)


def _has_hpu() -> bool:
    if importlib.util.find_spec("habana_frameworks") is None:
        return False
    return bool(_hpu().is_available())


def _hpu() -> Any:
    os.environ.setdefault("PT_HPU_LAZY_MODE", "1")  # Releases differ in what they take by default.
    return importlib.import_module("habana_frameworks.torch.hpu")
