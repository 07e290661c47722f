"""KubeRay's RayJob schema, cut to what our manifests use, with unknown keys made errors.

    git show v1.7.0:ray-operator/config/crd/bases/ray.io_rayjobs.yaml | \
        python -m tests.deploy.crd > tests/deploy/rayjob_schema.json

Every object that a manifest has keeps all its keys; what lies behind keys that none has is cut to
its type. Source: github.com/ray-project/kuberay, Apache-2.0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
VALUES = ("type", "enum", "minimum", "format", "x-kubernetes-int-or-string")


def manifests() -> list[Path]:
    return sorted(DEPLOY.glob("kuberay-*.yaml"))


def cut(schema: dict[str, Any], used: list[Any]) -> dict[str, Any]:
    """`schema` as JSON Schema, as deep as the values `used` go."""
    kept = {key: schema[key] for key in VALUES if key in schema}
    if "x-kubernetes-int-or-string" in kept:
        return {"type": ["integer", "string"]}
    objects = [value for value in used if isinstance(value, dict)]
    lists = [value for value in used if isinstance(value, list)]
    if not objects and not lists:
        return kept
    if "required" in schema:
        kept["required"] = schema["required"]
    if "properties" in schema:
        kept["additionalProperties"] = False
        kept["properties"] = {
            key: cut(inner, [value[key] for value in objects if key in value])
            for key, inner in schema["properties"].items()
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        inner = [value for each in objects for value in each.values()]
        kept["additionalProperties"] = cut(schema["additionalProperties"], inner)
    if "items" in schema:
        kept["items"] = cut(schema["items"], [value for each in lists for value in each])
    return kept


def main() -> None:
    crd = yaml.load(sys.stdin, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not in a CRD.
    used = [yaml.safe_load(path.read_text()) for path in manifests()]
    source = "github.com/ray-project/kuberay v1.7.0, ray.io_rayjobs.yaml, Apache-2.0; cut by crd.py"
    print(json.dumps({"$comment": source, **cut(schema, used)}, indent=1))


if __name__ == "__main__":
    main()
