"""An experiment from its file to verified answers, with prompts that name a picture's label."""

from __future__ import annotations

import sys
from pathlib import Path

from lmmsteer import manifest
from lmmsteer.fleet.verify import verify
from lmmsteer.store import LocalStore
from tests.fleet.runs import of, run
from tests.papers import data


def test_a_part_of_a_study_asks_every_picture_about_its_own_occupation(tmp_path: Path) -> None:
    data.facet(tmp_path)
    out = tmp_path / "out"
    line = [sys.executable, "-m", "jobs", "generate", "experiment=paper_howard", "dataset=facet"]
    line += ["prompts=howard_numeric", "model=demo", f"data={tmp_path}", f"out={out}"]
    line += ["sample.each=2", "sample.by=[gender]", "sampling.max_new_tokens=4", "seeds=[0]"]
    assert "demo unsteered none facet: 20 of 20 rows" in run(line).stdout
    store = LocalStore(out)
    rows = manifest.read_rows(store, "facet", "part-00000.parquet")
    assert len({row.image_id for row in rows}) == 4
    assert {row.gender for row in rows} == {"male", "female"}
    hiring = [row for row in rows if row.prompt_id == "hiring"]
    assert all(f"for their interview as a {row.occupation}. Their" in row.prompt for row in hiring)
    assert verify(store).faults == []
    part = out / "manifest/dataset=facet/rows/part-00000.parquet"
    whole = part.read_bytes()
    part.unlink()
    assert "rows/part-00000.parquet" in run(of("verify", out), expect=1).stdout
    run(of("resume", out))
    assert part.read_bytes() == whole
