"""demo-data: the demo people and their labels as a folder of pictures."""

from __future__ import annotations

from pathlib import Path

from jobs import explain
from lmmsteer import config as configs
from lmmsteer.config import DemoDataConfig
from lmmsteer.demo import people
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.launcher import Member


def run(members: list[Member]) -> int:
    """Draw them; a folder that holds other files is refused."""
    for member in members:
        if member.config is None:
            raise explain.sentence(member.error or ValueError("no config"), "demo-data")
        asked = configs.typed(member.config, DemoDataConfig, "")
        if asked.images < 1 or asked.split not in ("eval", "fit"):
            raise LmmsteerError(
                f"images={asked.images} split={asked.split} cannot be drawn.",
                "images is 1 or more; split is eval or fit.",
            )
        folder = Path(asked.out)
        if folder.exists() and any(folder.iterdir()) and not (folder / "metadata.csv").is_file():
            raise LmmsteerError(f"{folder} holds other files.", "Name a new folder: out=FOLDER")
        people.write_folder(folder, asked.images, asked.seed, asked.split)
        print(f"{folder}: {asked.images} pictures and metadata.csv")
    return 0
