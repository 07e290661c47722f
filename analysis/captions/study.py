"""What captions are measured with: their references, and the metrics that can be taken here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from analysis.captions import java, meteor
from analysis.captions.meteor import Meteor
from analysis.captions.pair import Scorer
from analysis.captions.references import References
from analysis.captions.rouge import RougeL
from analysis.captions.spice import Spice
from analysis.captions.treebank import WITHIN, Treebank
from analysis.settings import Analysis
from lmmsteer.errors import LmmsteerError
from lmmsteer.store import Store

METRICS = ("rouge_l", "meteor", "spice")
SPICE_WITHIN = "spice/spice-1.0.jar"


class Study:
    """References and scorers of one run; `close` ends the programs that were started.

    say: is told what was left out.
    Raises: LmmsteerError for a metric that is not known.
    """

    def __init__(self, store: Store, settings: Analysis, say: Callable[[str], None]) -> None:
        self.settings, self.say = settings, say
        self.references = References(store, settings)
        unknown = [name for name in settings.caption_metrics if name not in METRICS]
        if unknown:
            raise LmmsteerError(
                f"analysis.caption_metrics holds {unknown[0]}.",
                f"Choose from {', '.join(METRICS)}.",
            )
        if settings.java_seconds <= 0:
            raise LmmsteerError(
                f"analysis.java_seconds={settings.java_seconds} is no time to wait.",
                "Give the seconds that METEOR or SPICE may take for a reply.",
            )

    @property
    def metrics(self) -> list[str]:
        """Those asked for; by default ROUGE-L, METEOR, and SPICE where its jar is named."""
        asked = self.settings.caption_metrics
        default = [name for name in METRICS if name != "spice" or self.settings.spice_jar]
        return [name for name in METRICS if name in (asked or default)]

    @cached_property
    def scorers(self) -> list[Scorer]:
        """Of the metrics that were asked for; `all` leaves out what Java is missing for.

        Raises: LmmsteerError where Java or a jar is missing and the metric was asked for.
        """
        found: list[Scorer] = []
        for name in self.metrics:
            try:
                found.append(self._scorer(name))
            except LmmsteerError as error:
                if self.settings.name != "all" or self.settings.caption_metrics:
                    raise
                self.say(f"captions: without {name}. {error.what}")
        return found

    def _scorer(self, name: str) -> Scorer:
        if name == "rouge_l":
            return RougeL()
        given, runs = self.settings, java.Java(self.settings.java, self.settings.java_seconds)
        runs.path(name.upper())
        cutter = java.jar("tokenizer_jar", given.tokenizer_jar, WITHIN, "The tokenizer")
        treebank = Treebank(runs, cutter)
        if name == "meteor":
            jar = java.jar("meteor_jar", given.meteor_jar, meteor.WITHIN, "METEOR")
            return Meteor(runs, jar, treebank)
        return Spice(runs, java.jar("spice_jar", given.spice_jar, SPICE_WITHIN, "SPICE"), treebank)

    def close(self) -> None:
        for scorer in self.__dict__.get("scorers", ()):
            scorer.close()
