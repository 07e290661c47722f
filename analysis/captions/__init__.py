"""Answers against reference captions: ROUGE-L, METEOR and SPICE, and the Max- rule of ALA.

ROUGE-L is computed here. METEOR and SPICE are Java programs that a user has: they are started,
asked and ended here, and a program that dies, hangs or says nonsense is an error, never a zero.
"""

from analysis.captions.measure import Captions
from analysis.captions.study import Study

__all__ = ["Captions", "Study"]
