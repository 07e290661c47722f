"""What is handed to KubeRay and to `ray up`, against their schemas and our docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from lmmsteer.config import ClusterConfig
from tests.deploy.crd import DEPLOY, manifests

SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
RAY_UP = DEPLOY / "ray-cluster.yaml"


@pytest.fixture(params=manifests(), ids=lambda path: path.stem)
def job(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates: the head's first."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def words(job: dict[str, Any]) -> dict[str, str]:
    """The overrides of the command that a job runs."""
    pairs = (word.partition("=") for word in job["spec"]["entrypoint"].split())
    return {key: value for key, equals, value in pairs if equals}


def test_a_rayjob_is_what_kuberays_schema_asks_for(job: dict[str, Any]) -> None:
    jsonschema.validate(job, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entrypont"), "lmmsteer"),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "gracePeriod"), 1),
    ],
)
def test_the_schema_notices_what_is_misspelt(
    path: tuple[str, ...], value: Any, job: dict[str, Any]
) -> None:
    inner = job
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_token_authentication_is_on_and_secrets_come_from_a_secret(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for pod in pods(job):
        (container,) = pod["containers"]
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["lmmsteer"]
        for variable in container.get("env", []):
            assert not any(word in variable["name"] for word in ("TOKEN", "SECRET", "KEY"))


def test_pods_wait_longer_than_the_run_takes_to_drain(job: dict[str, Any]) -> None:
    drain = float(words(job)["cluster.drain"])
    head, worker = pods(job)
    (container,) = head["containers"]
    (wait,) = (e["value"] for e in container["env"] if e["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    assert drain < float(wait) < head["terminationGracePeriodSeconds"]
    stay = float(worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert ClusterConfig().drain < drain < stay < worker["terminationGracePeriodSeconds"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["lmmsteer-driver", "stop"]


def test_the_same_command_is_tried_again_and_its_parts_outlive_the_pods(
    job: dict[str, Any],
) -> None:
    assert job["spec"]["backoffLimit"] > 0
    out = words(job)["out"]
    for pod in pods(job):
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        (name,) = (name for path, name in mounts.items() if out.startswith(path + "/"))
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == name)
        assert "persistentVolumeClaim" in volume


def test_each_worker_has_the_card_that_the_run_asks_for(job: dict[str, Any]) -> None:
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    (container,) = group["template"]["spec"]["containers"]
    card = {"cuda": "nvidia.com/gpu", "hpu": "habana.ai/gaudi"}[words(job)["device"]]
    assert container["resources"]["limits"][card] == container["resources"]["requests"][card]
    if words(job)["device"] == "hpu":
        assert group["resources"] == {"HPU": container["resources"]["limits"][card]}
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_command_of_a_job_composes(job: dict[str, Any]) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from jobs.__main__ import CONF
    from lmmsteer import config as configs
    from lmmsteer.fleet import launcher

    run, driver, program, verb, *overrides = job["spec"]["entrypoint"].split()
    assert (run, driver, program, verb) == ("lmmsteer-driver", "run", "lmmsteer", "generate")
    configs.register_all()
    launcher.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = compose("generate", [o.split(",")[0] for o in overrides if o != "-m"])
    typed = configs.typed(made, configs.GenerateConfig, "")
    assert (typed.device.kind, typed.out) == (words(job)["device"], "/shared/study")


def test_ray_up_takes_the_cluster_file_as_it_is_and_as_it_is_filled_out() -> None:
    written = yaml.safe_load(RAY_UP.read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(written, schema)
    filled = prepare_config(written)
    validate_config(filled)
    (kind,) = filled["available_node_types"].values()
    assert kind["min_workers"] == len(filled["provider"]["worker_ips"])


def test_ray_up_brings_the_token_along_and_no_secret() -> None:
    text = RAY_UP.read_text()
    mounts = yaml.safe_load(text)["file_mounts"]
    assert mounts == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "AWS_SECRET_ACCESS_KEY=" not in text
    assert "HF_TOKEN=" not in text
    assert "--dashboard-host" not in text  # The dashboard stays on the head's own address.
