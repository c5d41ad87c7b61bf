"""Folders for patients' files: private, and gone with their study or their process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vfmalign.core.domain.errors import BadOption, Exhausted
from vfmalign.features.dicom.folders import PrivateFolders

# Keeps a folder open with a file in it, says so, and waits to be killed.
_PROCESS = """
import sys, time
from pathlib import Path
from vfmalign.features.dicom.folders import PrivateFolders
with PrivateFolders(Path(sys.argv[1])).open() as folder:
    (folder / "instance.dcm").write_text("Zauberberg")
    print("ready", flush=True)
    time.sleep(600)
"""


def list_files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != "lock")


def test_a_folder_is_private_and_gone_after_the_block(tmp_path: Path) -> None:
    root = tmp_path / "dicom"
    folders = PrivateFolders(root)
    with folders.open() as folder:
        (folder / "study.zip").write_bytes(b"x")
        assert [path.stat().st_mode & 0o777 for path in (root, folder.parent, folder)] == [0o700] * 3
    assert list_files(root) == []
    with pytest.raises(ValueError, match="cause"), folders.open():
        raise ValueError("cause")
    assert list_files(root) == []
    folders.close()
    assert list(root.glob("process-*")) == []


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    root = tmp_path / "dicom"
    command = [sys.executable, "-c", _PROCESS, str(root)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE) as running,
    ):
        try:
            for process in (killed, running):
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            assert list_files(root) == ["instance.dcm"] * 2
            PrivateFolders(root).close()
            assert list_files(root) == ["instance.dcm"]  # that of the process that runs
        finally:
            running.kill()
    PrivateFolders(root).close()
    assert list(root.glob("process-*")) == []


def test_a_process_that_ends_meanwhile_keeps_no_other_from_starting(tmp_path: Path) -> None:
    root = tmp_path / "dicom"
    PrivateFolders(root).close()
    (root / "process-ended").symlink_to(root / "removed")  # listed, and gone when it is looked into
    PrivateFolders(root).close()


def test_a_folder_that_others_may_reach_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    (tmp_path / "file").touch()
    for name in ("open", "link", "file", "file/below"):
        with pytest.raises(BadOption, match="VFMALIGN_FEATURES__DICOM_FOLDER"):
            PrivateFolders(tmp_path / name)


def test_a_full_disk_ends_the_call_with_a_remedy(tmp_path: Path) -> None:
    folders = PrivateFolders(tmp_path / "dicom")
    with pytest.raises(Exhausted, match="no space") as caught, folders.open():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.reason == "DISK_FULL"
    with pytest.raises(OSError, match="Input/output"), folders.open():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    folders.close()
