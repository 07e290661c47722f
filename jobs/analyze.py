"""analyze: finished answers to scores."""

from __future__ import annotations

from dataclasses import replace

import analysis
from analysis import judge
from jobs import explain
from lmmsteer import config as configs
from lmmsteer.config import AnalyzeConfig
from lmmsteer.fleet.launcher import Member
from lmmsteer.store import open_store


def run(members: list[Member]) -> int:
    """Run each member's analysis and name the files it wrote."""
    for member in members:
        if member.config is None:
            raise explain.sentence(member.error or ValueError("no config"), "analyze")
        asked = configs.typed(member.config, AnalyzeConfig, "")
        judged = asked.analysis.get("name") in judge.NAMES
        schema = judge.Judging if judged else analysis.Analysis
        settings = configs.typed(asked.analysis, schema, "analysis")
        partial = settings.allow_partial or asked.allow_partial
        settings = replace(settings, allow_partial=partial)
        store = open_store(asked.out)
        if isinstance(settings, judge.Judging):
            paths = judge.run(store, settings)
        else:
            paths = analysis.run(store, [settings.name], settings)
        for path in paths:
            print(f"{store.root}/{path}")
    return 0
