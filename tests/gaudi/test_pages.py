"""The commands of docs/gaudi.md, as they stand, on the stand-in card; others: tests/pages.py."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lmmsteer.demo.people import write_folder
from tests.gaudi import cases
from tests.test_docs import ROOT, commands

LINES = [line for line in commands(ROOT / "docs/gaudi.md") if re.match(r"lmmsteer \S+ .*hpu", line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stand_in):
    made = tmp_path_factory.mktemp("reader")
    write_folder(made / "pictures", 4)
    cases.save("llava", made / "model")
    return made


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_runs(line, folder):
    """`...` is the reader's model; doctor finds the card and ends well."""
    words = shlex.split(line.replace("model.path=...", "model.path=model"))
    name = Path(sys.executable).with_name("lmmsteer")
    environment = {**os.environ, "LMMSTEER_STAND_IN_CARDS": "1"}
    ran = subprocess.run(
        [name, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if words[1] == "doctor":
        assert "GAUDI2" in ran.stdout
        return
    parts = sorted((folder / "runs/gaudi/responses").rglob("*.parquet"))
    texts = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert len(texts) == 60  # 4 pictures, 5 prompts, 3 seeds
    assert {row["error_kind"] for row in texts} == {None}
    logged = [
        json.loads(text)
        for log in (folder / "runs/gaudi/logs").glob("*.jsonl")
        for text in log.read_text().splitlines()
    ]
    (shard,) = [one["engine"] for one in logged if "engine" in one]
    assert shard["graphs"] == shard["compiled"] == shard["warmed"] > 0
    assert shard["warm"] > 0


def test_the_page_has_its_commands():
    assert [line.split()[1] for line in LINES] == ["generate", "doctor"]
