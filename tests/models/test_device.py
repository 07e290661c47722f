import pytest
import torch

from lmmsteer.device import Device, detect
from lmmsteer.errors import LmmsteerError


def test_a_kind_that_is_not_on_this_machine_is_refused_with_what_mends_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert detect("cpu") == detect("auto") == Device("cpu")
    for kind in ("cuda", "hpu", "tpu"):
        with pytest.raises(LmmsteerError, match=rf"device\.kind={kind}") as error:
            detect(kind)
        assert "device.kind=" in error.value.mend


def test_auto_takes_the_accelerator_and_cpu_still_means_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert detect("auto") == detect("cuda") == Device("cuda")
    assert detect("cpu") == Device("cpu")


def test_auto_dtype_is_float32_on_a_processor_and_sixteen_bits_on_a_card():
    for checkpoint in (None, torch.float32, torch.float16, torch.bfloat16):
        assert Device("cpu").dtype("auto", checkpoint) == torch.float32
    assert Device("cuda").dtype("auto", torch.float16) == torch.float16
    assert Device("hpu").dtype("auto", torch.float32) == torch.bfloat16
    assert Device("cuda").dtype("float32", torch.float16) == torch.float32


def test_a_worker_reserves_one_card_or_the_cores_asked_for():
    assert Device("cuda").ray_resources() == {"num_gpus": 1}
    assert Device("hpu").ray_resources() == {"resources": {"HPU": 1}}
    assert Device("cpu").ray_resources(2) == {"num_cpus": 2}


def test_the_processor_reports_its_memory_and_versions():
    used, total = Device("cpu").memory()
    assert 0 < used < total
    versions = Device("cpu").versions()
    assert versions["torch"] == torch.__version__
    assert versions["device"] == "cpu"


def test_the_peak_of_memory_is_of_what_came_after_it_was_watched():
    device = Device("cpu")
    device.watch_memory()
    before = device.peak_memory()
    held = torch.ones(32 << 20)  # 128 MiB
    peak = device.peak_memory()
    del held
    device.watch_memory()
    after = device.peak_memory()
    assert peak - before > 100 << 20
    assert peak - after > 100 << 20
