"""analyze: finished answers to scores."""

from __future__ import annotations

from dataclasses import replace

import analysis
from analysis import annotate, judge, tokens
from analysis.judge.local import Model
from analysis.toxicity import Scorer, Toxicity
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
        settings = configs.typed(asked.analysis, _schema(asked.analysis.get("name")), "analysis")
        partial = settings.allow_partial or asked.allow_partial
        settings = replace(settings, allow_partial=partial)
        store = open_store(asked.out)
        if isinstance(settings, judge.Judging):
            paths = judge.run(store, settings, open_local=_local)
        elif isinstance(settings, annotate.Annotating):
            paths = annotate.run(store, settings)
        elif isinstance(settings, tokens.Shifting):
            from lmmsteer.fleet.first_tokens import FirstTokens  # torch is loaded for it alone

            paths = tokens.run(store, settings, FirstTokens(store))
        else:
            paths = analysis.run(store, [settings.name], settings, scorer=_scorer(settings))
        for path in paths:
            print(f"{store.root}/{path}")
    return 0


def _local(folder: str) -> Model:
    """The model of a local judge."""
    from transformers.utils import logging  # with torch, for it alone

    from lmmsteer.fleet.asking import LocalModel

    logging.set_verbosity_error()  # A prompt that is too long is told of by its row.
    return LocalModel(folder, "analysis.judge.model")


def _scorer(settings: analysis.Analysis) -> Scorer | None:
    """The classifier of `analysis.toxicity`; only then are torch and transformers imported."""
    if settings.toxicity is None or settings.name not in ("all", Toxicity.name):
        return None
    from lmmsteer.models.toxicity import ToxicityModel

    return ToxicityModel(
        settings.toxicity,
        settings.toxicity_label,
        settings.toxicity_device,
        settings.toxicity_batch,
    )


def _schema(name: object) -> type[analysis.Analysis]:
    """The keys of an analysis."""
    if name == annotate.NAME:
        return annotate.Annotating
    if name == tokens.NAME:
        return tokens.Shifting
    return judge.Judging if name in judge.NAMES else analysis.Analysis
