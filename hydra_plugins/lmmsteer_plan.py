"""The only place Hydra takes plugins from. What they do stands in lmmsteer/fleet/launcher.py."""

from lmmsteer.fleet import launcher


class PlanSweeper(launcher.PlanSweeper):
    """hydra/sweeper=plan"""


class PlanLauncher(launcher.PlanLauncher):
    """hydra/launcher=plan"""
