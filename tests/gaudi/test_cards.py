"""Kind hpu as the fleet and the log know it."""

import os
import re
from pathlib import Path

import pytest

from lmmsteer import device
from lmmsteer.config import ClusterConfig, DeviceConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cluster

ROOT = Path(__file__).parents[2]
GRANTED = ("PT_HPU_LAZY_MODE", "PT_HPU_RECIPE_CACHE_CONFIG", device.COMPILING)


@pytest.fixture
def bridge(monkeypatch):
    """The bridge's environment, as it was afterwards; it is not yet imported."""
    for key in GRANTED:
        monkeypatch.setenv(key, os.environ.get(key, "1"))
    monkeypatch.delitem(device.sys.modules, "habana_frameworks.torch.core", raising=False)


def test_a_gaudi_card_is_found_with_its_name_memory_and_versions():
    found = device.detect("hpu")
    assert found == device.detect("auto") == device.Device("hpu")
    assert found.name() == "GAUDI2"
    assert found.memory() == (2 * 10**9, 96 * 10**9)
    found.watch_memory()
    assert found.peak_memory() == 0
    assert {
        "habana": "1.24.0",
        "card": "GAUDI2",
        "mode": "lazy",
    }.items() <= found.versions().items()


def test_mode_and_recipes_reach_the_bridge_before_it_is_imported(bridge, tmp_path):
    device.prepare_hpu("eager", str(tmp_path / "kept"))
    assert [os.environ[key] for key in GRANTED[:2]] == ["0", f"{tmp_path}/kept,False,10240"]
    assert (tmp_path / "kept").is_dir()
    assert device.Device("hpu").mode == "eager"
    device.prepare_hpu("compile", None)
    assert os.environ["PT_HPU_LAZY_MODE"] == "0"
    assert device.Device("hpu").mode == "compile"
    device.prepare_hpu("lazy", None)
    assert os.environ["PT_HPU_LAZY_MODE"] == "1"
    assert device.Device("hpu").mode == "lazy"
    assert device.Device("cpu").mode is None
    with pytest.raises(LmmsteerError, match=r"device\.mode=fast"):
        device.prepare_hpu("fast", None)


def test_a_mode_that_comes_too_late_is_refused(bridge, monkeypatch):
    monkeypatch.setitem(device.sys.modules, "habana_frameworks.torch.core", object())
    with pytest.raises(LmmsteerError, match="runs in this process already"):
        device.prepare_hpu("eager", None)


def test_keys_of_gaudi_cards_are_refused_elsewhere():
    for given in ({"mode": "lazy"}, {"recipes": "/tmp/x"}):
        with pytest.raises(LmmsteerError, match="is for Gaudi cards"):
            cluster.device_of(ClusterConfig(), DeviceConfig(kind="cpu", **given))
    with pytest.raises(LmmsteerError, match=r"device\.mode=fast"):
        cluster.device_of(ClusterConfig(), DeviceConfig(kind="hpu", mode="fast"))


def test_habana_and_optimum_are_imported_in_two_files_alone():
    word = re.compile(
        r"import_module\([^)]*(habana|ADAPTED)|^\s*(import|from) (habana|optimum)", re.M
    )
    found = {
        path.name for path in (ROOT / "lmmsteer").rglob("*.py") if word.search(path.read_text())
    }
    assert found == {"device.py", "gaudi.py"}


def test_ray_gives_each_worker_a_card_of_its_own(monkeypatch):
    monkeypatch.setenv("LMMSTEER_STAND_IN_CARDS", "2")
    from lmmsteer.fleet.worker import Worker

    wanted = DeviceConfig(kind="hpu")
    with cluster.joined(ClusterConfig(), wanted, 2) as ray:
        assert ray.cluster_resources()["HPU"] == 2
        options = device.Device("hpu").ray_resources()
        actor = ray.remote(Worker).options(**options)
        workers = [actor.remote("hpu", 1, str, "lazy", None) for _ in range(2)]
        told = ray.get([worker.describe.remote() for worker in workers], timeout=120)
    assert sorted(one["cards"] for one in told) == ["0", "1"]
    assert {one["device"] for one in told} == {"GAUDI2"}
