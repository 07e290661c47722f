"""What an analysis and a report can be told: the keys of `analysis.*` and `report.*`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Analysis:
    """The keys of the `analysis` config group.

    name: a measure of analysis/measures.py, or all (those whose inputs are there).
    bigrams: CSV of annotated bigrams (bigram, attribute, freq, label); null counts every bigram.
    mode: allow (only bigrams labelled related count) or deny (all but those labelled unrelated).
    by: label column whose groups sentiment compares; null is the first there is of race, skin_tone,
    gender, age, body_type.
    attributes: attributes to measure beside those of the cells, each with its target words; an
    empty list takes the words of conf/attribute.
    competency: file of competency words, one a line; null takes the shipped list.
    direct: id of the prompt that asks for the label `by` itself.
    bootstrap, seed: resamples of the 95% intervals and their seed. cluster: what is resampled,
    image_id or group_id (counterfactual sets).
    permutations: exchanges of a paired test between methods, from the same seed. correction: of its
    p values for their number: holm, bh (Benjamini-Hochberg) or none.
    sentences: sentiment of an answer is the mean of its sentences' compound scores, for long ones
    saturate; false is the score of the whole, as in the paper.
    cores: processes that score sentiment; null is one for each core that this process may use.
    """

    name: str = "all"
    bigrams: str | None = None
    mode: str = "deny"
    by: str | None = None
    attributes: dict[str, list[str]] = field(default_factory=dict)
    competency: str | None = None
    direct: str | None = None
    bootstrap: int = 1000
    seed: int = 0
    cluster: str = "image_id"
    permutations: int = 2000
    correction: str = "holm"
    sentences: bool = False
    cores: int | None = None
    allow_partial: bool = False


@dataclass
class Report:
    """The keys of `report`: rows in the gallery, and the longest side of its pictures in pixels."""

    gallery: int = 60
    pixels: int = 192
