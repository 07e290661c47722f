"""The data sets, a file each. `loader` in a data set's config names one of LOADERS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lmmsteer.config import typed
from lmmsteer.datasets.base import DataSet
from lmmsteer.datasets.coco_captions import CocoCaptions
from lmmsteer.datasets.da_coco import DaCoco
from lmmsteer.datasets.demo import Demo
from lmmsteer.datasets.facet import Facet
from lmmsteer.datasets.fairface import FairFace
from lmmsteer.datasets.folder import Folder
from lmmsteer.datasets.parquet import ParquetFiles
from lmmsteer.datasets.social_counterfactuals import SocialCounterfactuals
from lmmsteer.datasets.synthetic import Synthetic
from lmmsteer.errors import LmmsteerError

LOADERS: dict[str, type] = {
    "folder": Folder,
    "parquet": ParquetFiles,
    "social_counterfactuals": SocialCounterfactuals,
    "facet": Facet,
    "da_coco": DaCoco,
    "coco_captions": CocoCaptions,
    "fairface": FairFace,
    "demo": Demo,
    "synthetic": Synthetic,
}


def open_dataset(config: Any) -> DataSet:
    """The data set that a composed `dataset` group describes.

    `licence`, a text for reports and cards, is no parameter of a loader.
    """
    values = dict(config)
    values.pop("licence", None)
    loader = values.pop("loader", None)
    if loader not in LOADERS:
        known = ", ".join(sorted(LOADERS))
        raise LmmsteerError(f"dataset.loader={loader} is unknown.", f"Known loaders: {known}")
    return typed(values, LOADERS[loader], "dataset")


def describe(dataset: DataSet, loader: str) -> dict[str, Any]:
    """Its identity: the loader and every parameter, a path as an absolute one."""
    values: Mapping[str, Any] = {f.name: getattr(dataset, f.name) for f in fields(dataset)}  # type: ignore[arg-type]
    path = values.get("path")
    resolved = {"path": str(Path(path).resolve())} if path and "://" not in path else {}
    return {"loader": loader, **values, **resolved}
