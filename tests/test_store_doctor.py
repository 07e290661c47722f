import os
from pathlib import Path

import pytest

from jobs import doctor
from lmmsteer.config import DoctorConfig
from lmmsteer.errors import RunFailed


def test_doctor_says_how_a_folder_commits_and_leaves_nothing(tmp_path: Path) -> None:
    said = doctor._storage(DoctorConfig(out=str(tmp_path / "new" / "out")))
    assert said.startswith(f"{tmp_path}/new/out can be written, ")
    assert said.endswith("GiB free; a part is committed by: hard link")
    assert os.listdir(tmp_path) == []


def test_doctor_keeps_what_is_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    doctor._storage(DoctorConfig(out=str(tmp_path)))
    assert os.listdir(tmp_path) == ["mine"]


def test_doctor_names_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFailed, match=f"{tmp_path}/file/out cannot be written: Not a directory"):
        doctor._storage(DoctorConfig(out=str(tmp_path / "file" / "out")))
