"""What an analysis and a report can be told: the keys of `analysis.*` and `report.*`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    toxicity: folder of a text classifier, saved by save_pretrained with its tokenizer.
    toxicity_label: name or number of its label that means toxic, or a list of them; null is the one
    named toxic or toxicity. toxicity_threshold: P(toxic) from which on an answer is toxic.
    toxicity_categories: label columns whose gaps D_mean averages; none is every one of race,
    skin_tone, gender, age, body_type that has two groups. toxicity_device: auto, cuda, hpu or cpu.
    toxicity_batch: texts that are scored at a time.
    references: Parquet, CSV or JSON file of image_id and caption, or one of COCO's captions_*.json;
    null is the data set's metadata. references_column: its column, of a caption or a JSON list.
    caption_metrics: of rouge_l, meteor, spice; none is the first two, and spice with its jar.
    meteor_jar, tokenizer_jar: meteor-1.5.jar, stanford-corenlp-3.4.1.jar; null is pycocoevalcap's.
    spice_jar: spice-1.0.jar with lib/stanford-corenlp-3.6.0*.jar beside it. java: the command.
    java_seconds: after which a Java program that does not reply is given up.
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
    toxicity: str | None = None
    toxicity_label: Any = None
    toxicity_threshold: float = 0.5
    toxicity_categories: list[str] = field(default_factory=list)
    toxicity_device: str = "auto"
    toxicity_batch: int = 32
    references: str | None = None
    references_column: str = "captions"
    caption_metrics: list[str] = field(default_factory=list)
    meteor_jar: str | None = None
    tokenizer_jar: str | None = None
    spice_jar: str | None = None
    java: str = "java"
    java_seconds: float = 600.0
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

    gallery: int = 1000
    pixels: int = 192
