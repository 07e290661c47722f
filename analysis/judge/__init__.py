"""A language model as judge, behind any server that speaks OpenAI's chat completions, or local.

`judge` counts the mentions of an attribute in an answer, `accuracy` asks whether an answer matches
its picture. `run` asks what has no verdict yet and scores; every verdict lies in out/judgements.
"""

from analysis.judge.run import NAMES, run
from analysis.judge.settings import Judging

__all__ = ["NAMES", "Judging", "run"]
