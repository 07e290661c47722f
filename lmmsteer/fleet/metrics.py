"""Ray metrics of one worker, for whoever scrapes the cluster; nothing in lmmsteer reads them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lmmsteer.fleet.task import Report

STAGES = ("vision", "prefix", "suffix", "decode")


class Metrics:
    """Counters by model: lmmsteer_rows, _failed_rows (by reason), _tokens, _shards, _failed_shards,
    _stage_seconds (by stage), _wait_seconds (the device had nothing to do, for want of pictures),
    _compiled_graphs (by Gaudi's compiler).
    """

    @cached_property
    def _counters(self) -> dict[str, Any]:
        from ray.util.metrics import Counter

        about = {
            "rows": ("Rows answered, failed ones included.", ()),
            "failed_rows": ("Rows without an answer.", ("reason",)),
            "tokens": ("Tokens generated.", ()),
            "shards": ("Shards committed.", ()),
            "failed_shards": ("Shards given up.", ("reason",)),
            "stage_seconds": ("Seconds in each stage of the engine.", ("stage",)),
            "compiled_graphs": ("Graphs that Gaudi's compiler made.", ()),
            "wait_seconds": ("Seconds in which the device waited for pictures.", ()),
        }
        return {
            name: Counter(f"lmmsteer_{name}", description=text, tag_keys=("model", *tags))
            for name, (text, tags) in about.items()
        }

    def count(self, model: str, report: Report) -> None:
        """Add what came of a shard."""
        if report.failure is not None:
            self._add("failed_shards", 1, model, reason=report.failure)
            return
        if not report.created:
            return
        self._add("shards", 1, model)
        self._add("rows", report.rows, model)
        self._add("tokens", report.new_tokens, model)
        for reason, rows in report.failed.items():
            self._add("failed_rows", rows, model, reason=reason)
        for stage in STAGES:
            self._add("stage_seconds", report.engine.get(stage, 0), model, stage=stage)
        self._add("compiled_graphs", report.engine.get("compiled", 0), model)
        self._add("wait_seconds", report.engine.get("wait", 0), model)

    def _add(self, name: str, value: float, model: str, **tags: str) -> None:
        if value > 0:  # Ray refuses to add nothing.
            self._counters[name].inc(value, tags={"model": model, **tags})
