"""Whether an answer matches its picture, as a model that sees both judges it.

yes_rate = 100 * rows judged Yes / judged rows. difference_points: yes_rate less the unsteered
cell's, over the rows (picture, prompt and seed) that both have a verdict for. Intervals resample
pictures. No is also what the judge says of details that the picture does not show.
Source: Ratzlaff et al. 2024 (arXiv 2411.12590): "Does the description match the image? Answer with
Yes or No."
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import polars as pl

from analysis.comparisons import Comparable
from analysis.frame import BASELINE, Answers, CellFiles, Output, read
from analysis.judge import prompts as prompt_files
from analysis.judge.answer import Failure, match_of
from analysis.judge.estimate import picture_tokens, text_tokens
from analysis.judge.prompts import Message
from analysis.judge.question import Question, digest, setup
from analysis.judge.settings import Judging
from analysis.judge.study import Standing, covered, named, sampled, with_parts
from analysis.measure import by_cluster
from analysis.scores import Score
from analysis.stats import Bootstrap, Floats, ratio
from analysis.thumbnail import data_uri

REPLY_TOKENS = 2.0
ROW = ("row_id", "image_id", "prompt_id", "seed")
VERDICT = ("yes", "error_kind", "error")


class Accuracy:
    """The study `accuracy`."""

    name = "accuracy"

    def __init__(self, cells: list[CellFiles], settings: Judging, bootstrap: Bootstrap) -> None:
        self.settings = settings
        self.bootstrap = bootstrap
        keys = settings.judge
        self.prompts = prompt_files.read(keys.prompts)
        self.setup = setup(self.name, keys, self.prompts, pixels=keys.pixels)
        self.standing = Standing()
        self._pictures: dict[str, pl.DataFrame] = {}
        self._judged: list[tuple[Answers, pl.DataFrame, int, int]] = []
        self._verdicts = pl.DataFrame()
        self._output: Output | None = None

    def questions(self, output: Output, settled: set[str]) -> Iterator[Question]:
        """Part of pictures by part, so that no more than one part lies in memory."""
        asked = self._asked(output, settled)
        for dataset, rows in asked.partition_by("dataset", as_dict=True).items():
            known = self.pictures(output, str(dataset[0]))
            for path in known["path"].unique(maintain_order=True):
                here = rows.filter(pl.col("path") == path).sort("image_id")
                if len(here):
                    yield from self._part(output, path, here)
            for row in rows.filter(pl.col("path").is_null()).iter_rows(named=True):
                yield self._question(row, None)

    def sizes(self, output: Output, settled: set[str]) -> Iterator[tuple[str, float, float]]:
        around = picture_tokens(self.settings.judge.pixels) + text_tokens(self.prompts.picture)
        for key, text in self._asked(output, settled).select("key", "text").iter_rows():
            yield key, around + text_tokens(text), REPLY_TOKENS

    def _asked(self, output: Output, settled: set[str]) -> pl.DataFrame:
        frames = []
        for files in with_parts(output):
            answers = output.load(files)
            dataset = pl.lit(files.cell.dataset).alias("dataset")
            frame = self._keyed(output, answers)
            frame = frame.filter(~pl.col("key").is_in(sorted(settled)))
            frames.append(frame.select(dataset, "key", "row_id", "image_id", "text", "path"))
        return pl.concat(frames).unique("key", keep="first", maintain_order=True)

    def _keyed(self, output: Output, answers: Answers) -> pl.DataFrame:
        """The sampled answers, with the name of their question and where their picture lies."""
        frame = sampled(answers.frame, self.settings.judge.share)
        pictures = self.pictures(output, answers.cell.dataset)
        frame = frame.join(pictures, on="image_id", how="left", maintain_order="left")
        shown = frame.select(pl.coalesce("sha256", "image_id"), "text").iter_rows()
        keys = [digest("picture", picture, text) for picture, text in shown]
        return frame.with_columns(key=pl.Series(keys, dtype=pl.String()))

    def pictures(self, output: Output, dataset: str) -> pl.DataFrame:
        """image_id, sha256 and path of every picture of a data set's manifest."""
        if dataset not in self._pictures:
            folder = f"manifest/dataset={dataset}/images"
            found = [
                read(output.store, [path], ("image_id", "sha256")).with_columns(path=pl.lit(path))
                for path in output.store.list(folder)
                if path.endswith(".parquet")
            ]
            names = {name: pl.String() for name in ("image_id", "sha256", "path")}
            listed = pl.concat([pl.DataFrame(schema=names), *found], how="vertical_relaxed")
            self._pictures[dataset] = listed.unique("image_id", keep="first", maintain_order=True)
        return self._pictures[dataset]

    def _part(self, output: Output, path: str, rows: pl.DataFrame) -> Iterator[Question]:
        stored = dict(read(output.store, [path], ("image_id", "bytes")).iter_rows())
        for row in rows.iter_rows(named=True):
            yield self._question(row, stored.get(row["image_id"]))

    def _question(self, row: dict[str, Any], data: bytes | None) -> Question:
        messages = partial(self._messages, row["image_id"], row["text"], data)
        return Question(row["key"], "picture", row["row_id"], messages, match_of)

    def _messages(self, image_id: str, text: str, data: bytes | None) -> list[Message] | Failure:
        if data is None:
            return Failure("picture", f"the manifest has no picture {image_id} that can be read")
        shown = _shown(data, self.settings.judge.pixels)
        if shown is None:
            return Failure("picture", f"the picture {image_id} cannot be read")
        return self.prompts.matching(text, shown)

    def use(self, output: Output, verdicts: pl.DataFrame) -> None:
        self._output, self._verdicts = output, verdicts

    def add(self, answers: Answers) -> None:
        assert self._output is not None
        frame = self._keyed(self._output, answers)
        frame = frame.with_columns(cluster=answers.clusters(self.settings.cluster))
        found = frame.join(self._verdicts, on="key", how="left", maintain_order="left")
        self.standing.see(found, "yes")
        columns = found.select(*ROW, "cluster", *VERDICT)
        self._judged.append((answers, columns, found["yes"].count(), found["error_kind"].count()))

    def scores(self) -> list[Score]:
        return [score for judged in self._judged for score in self._scores(*judged)]

    def _scores(
        self, answers: Answers, frame: pl.DataFrame, judged: int, errors: int
    ) -> list[Score]:
        cell, coverage = answers.cell, covered(answers, judged)
        sums = _sums(frame.drop_nulls("yes"), pl.col("yes"), pl.lit(1))
        rate = self.bootstrap.interval(sums, ratio(100.0))
        scores = [Score(cell, cell.attribute, "yes_rate", rate, judged, coverage)]
        settled = frame.filter(pl.col("yes").is_not_null() | pl.col("error_kind").is_not_null())
        sums = _sums(settled, pl.col("error_kind").is_not_null(), pl.lit(1))
        share = self.bootstrap.interval(sums, ratio())
        scores.append(Score(cell, cell.attribute, "error_share", share, judged + errors, coverage))
        base = self._baseline(answers)
        if base is None:
            return scores
        both = frame.drop_nulls("yes").join(base, on="row_id", how="inner", maintain_order="left")
        sums = _sums(both, pl.col("yes"), pl.col("yes_right"), pl.lit(1))
        change = self.bootstrap.interval(sums, points)
        scores.append(Score(cell, cell.attribute, "difference_points", change, len(both), coverage))
        return scores

    def _baseline(self, answers: Answers) -> pl.DataFrame | None:
        """row_id and yes of the unsteered cell of the same model and data set."""
        cell = answers.cell
        for other, frame, _, _ in self._judged:
            same = (other.cell.model, other.cell.dataset) == (cell.model, cell.dataset)
            if same and other.cell.method == BASELINE and cell.method != BASELINE:
                return frame.drop_nulls("yes").select("row_id", "yes")
        return None

    def comparables(self) -> list[Comparable]:
        found = []
        for answers, frame, _, _ in self._judged:
            sums = by_cluster(frame.drop_nulls("yes"), pl.col("yes"))
            cell, base = answers.cell, answers.files.attribute
            names = (cell, cell.attribute, base, "yes_rate")
            found.append(Comparable(*names, sums, ratio(100.0)))
        return found

    def rows(self) -> pl.DataFrame | None:
        frames = [named(a, f.drop("cluster"), a.cell.attribute) for a, f, _, _ in self._judged]
        return pl.concat(frames) if frames else None

    def about(self) -> dict[str, Any]:
        return {"setup": self.setup.record, "unit": "per cent of the judged rows"}


def points(totals: Floats) -> Floats:
    """100 * (a - b) / n of the columns (a, b, n)."""
    return 100 * (totals[..., 0] - totals[..., 1]) / totals[..., 2]


def _sums(frame: pl.DataFrame, *columns: pl.Expr) -> Floats:
    """[clusters, columns]: sums over the rows of each cluster."""
    made = [column.cast(pl.Int64).alias(f"_{i}") for i, column in enumerate(columns)]
    each = frame.select("cluster", *made).group_by("cluster").sum().sort("cluster")
    return each.drop("cluster").cast(pl.Float64).to_numpy()


@lru_cache(maxsize=4)
def _shown(data: bytes, pixels: int) -> str | None:
    return data_uri(data, pixels)
