"""A local S3 server whose disk becomes full while it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.integration.cli.commands import wait_until

from vfmalign.cli.local import s3_server
from vfmalign.cli.local.s3_configuration import BUCKET, MIN_FREE_BYTES
from vfmalign.core.domain.errors import StoreUnavailable
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore

ROOM_BYTES = 512 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with little more than the least free space."""
    size = MIN_FREE_BYTES + ROOM_BYTES
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip("this account may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_writes_are_refused_once_the_server_finds_its_disk_full_and_go_on_when_it_is_not(disk: Path) -> None:
    """The server looks once a minute: writes succeed until then, as docs/operations.md says."""
    process, server = s3_server.start(disk / "s3")
    try:
        keys = {"access_key": server.access_key, "secret_key": SecretStr(server.secret_key)}
        store = ObjectStore(StoreSettings(endpoint=server.endpoint, bucket=BUCKET, **keys), attempts=1)
        store.ensure_bucket()
        store.put("before", b"before")
        filling = disk / "filling"
        filling.write_bytes(bytes(ROOM_BYTES))
        reasons: list[str] = []

        def is_refused() -> bool:
            try:
                store.put("later", b"later")
            except StoreUnavailable as error:
                reasons.append(f"{error.reason}: {error.message}")
                return True
            return False

        wait_until(is_refused, "the refusal")
        assert reasons == [
            "STORE_FAILING: the object store answers with errors (HTTP 500 InternalError); its disk may be full"
        ]
        assert store.get("before") == b"before"
        filling.unlink()
        wait_until(lambda: not is_refused(), "a write")
        assert store.get("later") == b"later"
    finally:
        s3_server.stop(process.pid)
        process.wait()
