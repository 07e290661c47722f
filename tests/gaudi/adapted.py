"""Answers of optimum-habana's models, in a process that has no other: python -m tests.gaudi.adapted

Takes a folder with a model in each folder of a family's name; writes answers.json there.
"""

import json
import sys
from pathlib import Path

from lmmsteer import device
from lmmsteer.engine.reference import Reference
from tests.gaudi import cases


def main(root: Path) -> None:
    device.prepare_hpu(sys.argv[2], None)
    card = device.detect("hpu")
    told = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        lmm = cases.opened(folder.name, folder, card.kind, adapted=True)
        engine, of = Reference(8), {}
        for name, edit in cases.edits(lmm).items():
            for sampling, made in cases.SAMPLINGS.items():
                found = cases.answers(engine, lmm, edit, made)
                recorded = len(getattr(lmm.model, "graphs", ()))
                of[f"{name} {sampling}"] = [
                    found,
                    engine.stats.compiled,
                    recorded,
                    engine.stats.warmed,
                ]
        placed = {str(one) for known in engine._directions.values() for one in known.fired}
        told[folder.name] = {"of": of, "placed": len(placed), "layers": lmm.n_layers}
        told[folder.name]["class"] = type(lmm.model).__name__
        rounded = cases.opened(folder.name, folder, card.kind, adapted=True, dtype="bfloat16")
        told[folder.name]["halves"] = cases.halves(engine, rounded)
    (root / "answers.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
