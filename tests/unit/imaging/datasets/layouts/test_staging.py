"""The staging folder: what is done, what is not, and who may use it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.imaging.datasets.layouts.dicom import StudyOutcome
from vfmalign.imaging.datasets.layouts.staging import StagedStudy, StagingFolder

UID = "1.2.3"
OUTCOME = StudyOutcome(study_uid=UID, patient="p", kinds=("t2w",), classes={"manufacturer": "ge"}, undrawn=())


@pytest.fixture
def staging(tmp_path: Path) -> StagingFolder:
    return StagingFolder(tmp_path / "private/staging/x", 1_000)


def test_a_study_is_done_once_its_record_is_written(staging: StagingFolder) -> None:
    with staging.open():
        downloads = staging.get_download_folder(UID)
        downloads.mkdir(parents=True)
        staging.write_volume(UID, "t2w", b"volume")
        assert staging.read(UID, "listing") is None
        study = StagedStudy(listing="listing", outcome=OUTCOME, series={"4.5": "series 1"}, notes=("note",))
        staging.write(UID, study)
        assert not downloads.exists()
    with staging.open():
        assert staging.read(UID, "listing") == study
        assert staging.read(UID, "another listing") is None
        assert staging.list_files(OUTCOME)["t2w"].path.read_bytes() == b"volume"
        assert not list(staging.path.rglob("*1.2.3*"))
        assert stat.S_IMODE(staging.path.stat().st_mode) == 0o700
        staging.forget([UID])
        assert staging.read(UID, "listing") is None
        staging.remove()
    assert not staging.path.exists()


def test_instances_of_a_study_that_is_not_done_are_not_forgotten(staging: StagingFolder) -> None:
    with staging.open():
        staging.get_download_folder(UID).mkdir(parents=True)
        staging.forget([UID])
        assert staging.get_download_folder(UID).exists()


def test_one_import_at_a_time(staging: StagingFolder) -> None:
    with staging.open(), pytest.raises(Conflict), StagingFolder(staging.path, 1_000).open():
        pass


def test_a_full_folder_refuses_volumes_and_counts_those_of_before(staging: StagingFolder) -> None:
    with staging.open():
        staging.write_volume(UID, "t2w", bytes(900))
        staging.write_volume(UID, "t2w", bytes(901))
    with staging.open(), pytest.raises(BadOption, match="--max-staging"):
        staging.write_volume("1.2.4", "t2w", bytes(100))


def test_nobody_else_can_read_what_is_staged(staging: StagingFolder, tmp_path: Path) -> None:
    with staging.open():
        staging.write_volume(UID, "t2w", b"volume")
        staging.write(UID, StagedStudy(listing="listing", outcome=OUTCOME))
    paths = list(tmp_path.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}


def test_a_temporary_folder_is_deleted_unless_something_was_there(tmp_path: Path) -> None:
    temporary = StagingFolder(tmp_path / "x", 1_000, is_temporary=True)
    with temporary.open():
        assert not temporary.is_kept
    assert not temporary.path.exists()
    with StagingFolder(tmp_path / "x", 1_000).open():
        pass
    with temporary.open():
        assert temporary.is_kept
    assert temporary.path.exists()
