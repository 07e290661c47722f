"""report: tables, the plot and one HTML page from the scores."""

from __future__ import annotations

import analysis
from analysis import report
from jobs import explain
from lmmsteer import config as configs
from lmmsteer.config import ReportConfig
from lmmsteer.fleet.launcher import Member
from lmmsteer.store import open_store


def run(members: list[Member]) -> int:
    """Write out/report, show the headline table and name the page."""
    for member in members:
        if member.config is None:
            raise explain.sentence(member.error or ValueError("no config"), "report")
        asked = configs.typed(member.config, ReportConfig, "")
        settings = configs.typed(asked.report, analysis.Report, "report")
        store = open_store(asked.out)
        paths = report.write(store, settings)
        print(report.headline(store))
        for path in paths:
            print(f"{store.root}/{path}")
    return 0
