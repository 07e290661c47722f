"""Every measure by the name that `analysis=` takes, in the order in which `all` runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from analysis.captions import Captions
from analysis.competency import Competency
from analysis.cost import Cost
from analysis.direct import Direct
from analysis.frame import CellFiles
from analysis.health import Health
from analysis.measure import Measure
from analysis.mentions import Mentions
from analysis.occupation import Occupation
from analysis.sentiment import Sentiment
from analysis.settings import Analysis
from analysis.stats import Bootstrap
from analysis.toxicity import Toxicity
from analysis.vqa import Vqa

Made: TypeAlias = Callable[[list[CellFiles], Analysis, Bootstrap], Measure]

MEASURES: dict[str, Made] = {
    "mentions": Mentions,
    "sentiment": Sentiment,
    "occupation": Occupation,
    "vqa": Vqa,
    "health": Health,
    "competency": Competency,
    "direct": Direct,
    "cost": Cost,
    "toxicity": Toxicity,
    "captions": Captions,
}
