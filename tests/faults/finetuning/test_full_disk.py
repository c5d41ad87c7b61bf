"""A full disk in the middle of a check: the orchestrator goes on by itself, with the same numbers.

The disk is full for at least 25 s, and until the leader has given up its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess

import pytest
from tests.faults.finetuning.test_leadership import NOT_SERVING, health, metrics, until

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.v1 import alignment_pb2

DISK_MB = 48
FULL_S = 25
LOST = "vfmalign_log_lines_lost_total"


@pytest.fixture
def tmp_path(tmp_path):
    """A small disk that holds the log, the database and the folders of jobs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path):
    """Takes all the space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(path).free == 0


async def test_a_check_goes_on_after_the_disk_was_full(service, store):
    (service.folder / "go").touch()
    undisturbed = await service.finish(await service.create("steady", seed=5))
    (service.folder / "go").unlink()

    name = await service.create("disturbed", dataset="twin", seed=5)
    await service.until(name, lambda _: len(service.starts()) == 6)
    ballast = service.folder / "ballast"
    await asyncio.to_thread(fill, ballast)
    free_again = asyncio.get_running_loop().time() + FULL_S
    await until(lambda: metrics(service.ports)["vfmalign_orchestrator_leader"] == 0, seconds=120)
    lost = metrics(service.ports)[LOST]
    await until(lambda: metrics(service.ports)[LOST] >= lost + 10, seconds=120)  # it tries again and again
    assert (await service.get(name)).state == alignment_pb2.CHECK_STATE_RUNNING
    assert health(service.ports, "orchestration") == NOT_SERVING, "`vfmalign doctor` would not see it"

    await asyncio.sleep(free_again - asyncio.get_running_loop().time())
    ballast.unlink()
    (service.folder / "go").touch()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    assert metrics(service.ports)["vfmalign_orchestrator_leader"] == 1
    assert service.process.poll() is None
    reports = [
        CheckReport.model_validate_json(store.get(store.key(done.result.report_json.uri))).result
        for done in (undisturbed, check)
    ]
    assert reports[0].rpg_specialised == reports[1].rpg_specialised
    assert reports[0].verdict == reports[1].verdict
    assert reports[0].networks[0].curve == reports[1].networks[0].curve
