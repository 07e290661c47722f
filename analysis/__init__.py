"""From finished answers to scores, tables and one page.

Reads an output folder and never a model: no torch, no Ray. `run` writes out/scores, `report.write`
out/report.
"""

from analysis.runner import run
from analysis.settings import Analysis, Report

__all__ = ["Analysis", "Report", "run"]
