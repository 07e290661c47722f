"""The data-set card: README.md of an output folder, with the YAML head that a hub reads.

Every cell is a configuration of its own, so that a hub's viewer and `datasets.load_dataset` find
the answers where they lie. A README.md that this program did not write is never replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from analysis import render, tables
from analysis.frame import CellFiles, Output
from analysis.tables import Table

MARK = "<!-- Written by lmmsteer report; made anew each time. -->"
KNOWN = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
SIZES = {
    "n<1K": 1_000,
    "1K<n<10K": 10_000,
    "10K<n<100K": 100_000,
    "100K<n<1M": 1_000_000,
    "1M<n<10M": 10_000_000,
    "10M<n<100M": 100_000_000,
    "100M<n<1B": 1_000_000_000,
}
COLUMNS = (
    ("row_id", "hash of picture, prompt text and seed: the same row in every cell"),
    ("image_id, prompt_id, seed", "what was asked about which picture"),
    ("text", "the answer; null where the row failed"),
    ("token_ids, new_tokens, finish_reason", "its tokens, their number, why it ended"),
    ("error, error_kind", "why a row failed; null where it did not"),
)


def write(output: Output, about: Mapping[str, Any], licences: Mapping[str, str]) -> list[str]:
    """Write README.md beside responses/, or report/README.md where there is one of somebody else's.

    Returns the path written.
    """
    store = output.store
    foreign = store.exists("README.md") and MARK not in store.read_bytes("README.md").decode(
        errors="replace"
    )
    path = "report/README.md" if foreign else "README.md"
    store.write_bytes(path, text(output, about, licences).encode(), overwrite=True)
    return [path]


def text(output: Output, about: Mapping[str, Any], licences: Mapping[str, str]) -> str:
    """The card. about: the footer of mentions (cells with answered and failed rows, notes)."""
    head = yaml.safe_dump(_head(output, licences), sort_keys=False, allow_unicode=True)
    first = _named(output.cells[0])
    notes = "".join(f"\n> {' '.join(str(note).split())}\n" for note in about["notes"])
    return f"""---
{head}---

{MARK}

# Answers of multimodal models, steered and unsteered

Answers to prompts about pictures of people, by model, steering method, attribute and data set, made
with lmmsteer. Each cell is a configuration: `datasets.load_dataset(REPOSITORY, "{first}")`.
{notes}
{render.markdown(_cells(output, about))}
{render.markdown(Table("Columns", ("column", "what it is"), COLUMNS, keys=2))}
How each cell was made (config, weights digest, versions, device) stands in its `_cell.json`.

## Licence and content

{_licence(licences)} The answers can be wrong, and repeat what models learned about people, hurtful
things among it. They are for the study of models. Labels are what annotators saw or what a
picture's makers asked for, and say nothing certain about anybody.

## Upload

    hf upload ORGANISATION/NAME . . --repo-type dataset --include "README.md" "responses/**"

from the folder that holds this file. Add `"manifest/*/rows/**"` for prompts and labels; the
pictures (`manifest/*/images`) only where their licence lets you.
"""


def _head(output: Output, licences: Mapping[str, str]) -> dict[str, Any]:
    rows = sum(files.rows for files in output.cells)
    size = next((name for name, most in SIZES.items() if rows < most), "n>1T")
    return {
        **_spdx(licences),
        "pretty_name": "Steered and unsteered answers",
        "task_categories": ["image-text-to-text"],
        "tags": ["bias", "fairness", "steering", "lmmsteer"],
        "size_categories": [size],
        "configs": [
            {"config_name": _named(files), "data_files": f"{files.cell.folder}/part-*.parquet"}
            | ({"default": True} if files is output.cells[0] else {})
            for files in output.cells
            if files.parts
        ],
    }


def _spdx(licences: Mapping[str, str]) -> dict[str, Any]:
    """One licence that a hub knows by name; else `other`, with what the data sets say."""
    said = sorted(set(licences.values()))
    if len(said) == 1 and said[0].lower() in KNOWN:
        return {"license": said[0].lower()}
    name = "; ".join(said) or "see the data set"
    return {"license": "other", "license_name": name}


def _licence(licences: Mapping[str, str]) -> str:
    said = " ".join(f"{name}: {licence}." for name, licence in sorted(licences.items()))
    return (
        f"Licence of the pictures' data sets: {said}"
        if said
        else ("The licence of the pictures' data set is not recorded: see where it came from.")
    )


def _cells(output: Output, about: Mapping[str, Any]) -> Table:
    counted = {cell["cell"]: cell for cell in about["cells"]}
    lines = []
    for files in output.cells:
        found = counted.get(str(files.cell), {})
        answered, failed = (f"{found.get(name, 0):,}" for name in ("answered", "failed"))
        share = tables.coverage({"coverage": found.get("coverage")})
        lines.append((*_keys(files), answered, failed, share))
    columns = ("model", "method", "attribute", "dataset", "answered", "failed", "coverage")
    return Table("Cells", columns, tuple(lines), keys=4)


def _keys(files: CellFiles) -> tuple[str, str, str, str]:
    cell = files.cell
    return cell.model, cell.method, cell.attribute, cell.dataset


def _named(files: CellFiles) -> str:
    """A configuration's name: without the signs that a hub's names may not hold."""
    return re.sub(r"[^\w.+-]", "_", ".".join(_keys(files)))
