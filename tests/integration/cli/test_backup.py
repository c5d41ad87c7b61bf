"""`vfmalign backup` and `restore` on a stopped stack: the content of the file, and refusals before any change."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from tests.integration.cli.commands import INTERRUPTED, Cli, wait_until

from vfmalign import __version__
from vfmalign.cli.local.stack import running_stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.core.storage.store.object_store import ObjectStore

OBJECTS = {f"jobs/j/{number}.bin": os.urandom(number * 50) for number in range(300)}
OBJECTS |= {"outbox/m/1.pb": b"waiting", "monitors/m/u/state/1.npz": os.urandom(3 << 20)}
PRIVATE = {"private/salt": b"s" * 32, "private/mapping.csv": b"case-1,Walpurga\n", "ports.json": b"{}"}

Entries = list[tuple[tarfile.TarInfo, bytes]]


def read_objects(home: StateDirectory) -> dict[str, bytes]:
    """Objects of a stopped stack by key."""
    with running_stack(home, lambda _: None, services=()) as state:
        store = ObjectStore(state.store.to_settings())
        return {key: store.get(key) for key in store.list("")}


def read_scope(home: StateDirectory, service: str) -> str:
    with closing(sqlite3.connect(home.service_state / f"{service}.db")) as database:
        ((scope, note),) = database.execute("SELECT scope, note FROM leases")
    assert note == "kept"
    return scope


@pytest.fixture(autouse=True)
def _signals_as_before(process_as_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands, which run in this process, replace handlers for the rest of it."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A stopped stack with objects, databases and private files."""
    cli = Cli(tmp_path_factory.mktemp("stack"))
    with running_stack(cli.home, lambda _: None, services=()) as state:
        store = ObjectStore(state.store.to_settings())
        for key, data in OBJECTS.items():
            store.put(key, data)
    for service in ("monitoring", "finetuning"):
        with closing(sqlite3.connect(cli.home.service_state / f"{service}.db")) as database, database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE leases (scope TEXT, note TEXT)")
            database.execute("INSERT INTO leases VALUES ('of the copied stack', 'kept')")
    for name, content in PRIVATE.items():
        (cli.home.path / name).write_bytes(content)
    (cli.home.private / "staging" / "d").mkdir(parents=True)
    (cli.home.private / "staging" / "d" / "image").write_bytes(b"of an unfinished import")
    return cli


@pytest.fixture(scope="module")
def backup(stack: Cli) -> Path:
    done = stack.call("backup", "stack.tar", "--json")
    secrets = done.document["secrets"]
    assert [secret.partition(":")[0] for secret in secrets] == ["tokens/", "private/"]
    assert all(f"the backup will contain a secret: {secret}" in done.err.replace("\n", " ") for secret in secrets)
    names = [entry.name for entry, _ in read_entries(stack.folder / "stack.tar")]
    assert (names[0], names[-1]) == ("backup.json", "SHA256SUMS")
    assert done.document["files"] == len(names[1:-1])
    return stack.folder / "stack.tar"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Cli]:
    """A place for a restored stack, in which a refused restore leaves nothing."""
    yield Cli(tmp_path)
    assert not list(tmp_path.glob("*.restoring"))


def read_entries(file: Path) -> Entries:
    with tarfile.open(file) as archive:
        return [(entry, archive.extractfile(entry).read()) for entry in archive]


def write_entries(file: Path, entries: Entries) -> Path:
    """Writes a backup with digests that fit its content."""
    with tarfile.open(file, "w") as archive:
        for entry, content in entries:
            if entry.name == "SHA256SUMS":
                files = [(one.name, data) for one, data in entries if one is not entry]
                content = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files).encode()
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def add(name: str, **fields: object) -> Callable[[Entries], Entries]:
    """Adds an entry before the digests."""
    entry = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return lambda entries: [*entries[:-1], (entry, b""), entries[-1]]


def test_a_backup_is_private_and_lists_its_secrets(backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in backup.parent.iterdir() if "stack.tar" in path.name] == ["stack.tar"]
    entries = {entry.name: content for entry, content in read_entries(backup)}
    manifest = json.loads(entries["backup.json"])
    assert (manifest["format"], manifest["version"]) == (1, __version__)
    assert len(manifest["secrets"]) == 2
    assert {name.split("/")[1] for name in entries if name.startswith("home/")} == {
        *("ports.json", "private", "state", "tokens")
    }
    assert not [name for name in entries if "staging" in name]


def test_the_digests_are_those_of_sha256sum(backup: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", backup], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_a_restored_stack_has_the_same_objects_files_and_tokens(stack: Cli, backup: Path, target: Cli) -> None:
    target.home.path.mkdir()
    done = target.call("restore", str(backup))
    assert f"restored {len(read_entries(backup)) - 2} files to" in done.out.replace("\n", " ")
    assert "`vfmalign up --detach`" in done.out.replace("\n", " ")
    assert read_objects(target.home) == OBJECTS
    for name, content in PRIVATE.items():
        path = target.home.path / name
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, 0o600)
    token = Path("owner") / "token"
    assert (target.home.tokens / token).read_text() == (stack.home.tokens / token).read_text()
    assert target.home.path.stat().st_mode & 0o777 == 0o700
    assert not (target.home.path / "restoring").exists()
    assert target.home.read().store.access_key != stack.home.read().store.access_key


def test_jobs_of_a_restored_stack_have_locks_of_their_own(stack: Cli, backup: Path, target: Cli) -> None:
    target.call("restore", str(backup))
    scopes = {read_scope(home, name) for home in (stack.home, target.home) for name in ("monitoring", "finetuning")}
    assert len(scopes) == 3


@pytest.mark.parametrize("name", ["stack.tar", "link"])
def test_an_existing_file_is_kept(stack: Cli, backup: Path, name: str) -> None:
    if name == "link":
        (stack.folder / name).symlink_to("nowhere")
    before = backup.read_bytes()
    done = stack.call("backup", name, code=2)
    assert f"{name} exists" in done.err
    assert "choose another name" in done.err
    assert backup.read_bytes() == before
    assert not (stack.folder / "nowhere").exists()


def test_a_backup_names_the_folder_that_it_cannot_write_or_that_has_no_stack(stack: Cli, target: Cli) -> None:
    done = stack.call("backup", "absent/stack.tar", code=2)
    assert "absent/stack.tar cannot be written (No such file or directory)" in done.err
    done = target.call("backup", "stack.tar", code=2)
    assert "has no ports.json" in done.err
    assert not target.home.path.exists()


def test_a_home_with_files_is_kept(backup: Path, target: Cli) -> None:
    target.home.path.mkdir()
    (target.home.path / "notes").write_text("mine")
    done = target.call("restore", str(backup), code=2)
    assert "is not an empty folder" in done.err
    assert "move this one away" in done.err
    assert [path.name for path in target.home.path.iterdir()] == ["notes"]


def test_a_folder_that_no_restore_made_is_kept(backup: Path, target: Cli) -> None:
    other = target.home.path.with_name(".vfmalign.restoring")
    other.mkdir()
    (other / "notes").write_text("mine")
    assert "is in the way, and no restore has made it" in target.call("restore", str(backup), code=2).err
    assert (other / "notes").read_text() == "mine"
    shutil.rmtree(other)


def refuse(target: Cli, file: Path) -> str:
    """The error with which a restore refuses a file; nothing is written."""
    before = sorted(target.folder.iterdir())
    done = target.call("restore", str(file), code=2)
    assert sorted(target.folder.iterdir()) == before
    return done.err


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.995])
def test_a_truncated_file_is_refused(backup: Path, target: Cli, share: float) -> None:
    content = backup.read_bytes()
    file = target.folder / "cut.tar"
    file.write_bytes(content[: int(share * len(content))])
    assert "use an intact copy of the backup; nothing was restored" in refuse(target, file)


def test_an_altered_object_is_named(backup: Path, target: Cli) -> None:
    content = bytearray(backup.read_bytes())
    content[content.index(OBJECTS["jobs/j/200.bin"])] ^= 1
    file = target.folder / "altered.tar"
    file.write_bytes(content)
    assert "bucket/jobs/j/200.bin does not match its digest in SHA256SUMS" in refuse(target, file)


@pytest.mark.parametrize("name", ["../evil", "/evil", "bucket/../evil", "bucket//evil", "home/state.json", "home/s3/x"])
def test_a_name_that_leads_elsewhere_is_refused(backup: Path, target: Cli, name: str) -> None:
    file = write_entries(target.folder / "evil.tar", add(name)(read_entries(backup)))
    assert f"{name!r} does not belong to a backup" in refuse(target, file)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_devices_and_sparse_files_are_refused(backup: Path, target: Cli, kind: bytes) -> None:
    change = add("home/private/link", type=kind, linkname="/etc/passwd")
    file = write_entries(target.folder / "evil.tar", change(read_entries(backup)))
    assert "nothing was restored" in refuse(target, file)


def test_a_name_that_comes_twice_is_refused(backup: Path, target: Cli) -> None:
    file = write_entries(target.folder / "twice.tar", add("bucket/outbox/m/1.pb")(read_entries(backup)))
    assert "nothing was restored" in refuse(target, file)


def test_an_entry_after_the_digests_is_not_restored(backup: Path, target: Cli) -> None:
    file = target.folder / "more.tar"
    with tarfile.open(file, "w") as archive:
        for entry, content in [*read_entries(backup), (tarfile.TarInfo("bucket/more"), b"")]:
            archive.addfile(entry, io.BytesIO(content))
    target.call("restore", str(file))
    assert "more" not in read_objects(target.home)


@pytest.mark.parametrize("change", [{"version": "0.0.9"}, {"format": 2, "secrets": None, "new": 1}])
def test_a_backup_of_another_version_names_it(backup: Path, target: Cli, change: dict[str, object]) -> None:
    entries = read_entries(backup)
    entry, content = entries[0]
    content = json.dumps(json.loads(content) | {"version": "0.0.9"} | change).encode()
    entry.size = len(content)
    error = refuse(target, write_entries(target.folder / "old.tar", [(entry, content), *entries[1:]]))
    assert f"vfmalign 0.0.9 wrote the backup, and this is vfmalign {__version__}" in error
    assert "restore it with the version that wrote it" in error


def test_a_file_that_is_no_backup_is_refused(target: Cli) -> None:
    file = target.folder / "notes.tar"
    file.write_text("no tar file\n" * 1000)
    assert "the backup is incomplete" in refuse(target, file)
    file.write_bytes(b"")
    assert "the backup is incomplete" in refuse(target, file)
    assert "absent.tar cannot be read (No such file or directory)" in refuse(target, target.folder / "absent.tar")


def test_a_restore_that_is_ended_leaves_an_empty_home_and_can_be_repeated(backup: Path, target: Cli) -> None:
    unfinished = StateDirectory(target.home.path.with_name(".vfmalign.restoring"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = target.start("restore", str(backup))
        wait_until(lambda: unfinished.path.exists() and unfinished.read().store is not None, "the start of the store")
        server = unfinished.read().store.process
        assert target.call("restore", str(backup), code=2).err, "it runs already"
        process.send_signal(number)
        code = process.wait(60)
        process.communicate()
        assert not target.home.path.exists()
        killed = number == signal.SIGKILL
        assert code == -number if killed else code in INTERRUPTED
        assert (server.alive(), unfinished.path.exists()) == (killed, killed)
    target.run("restore", str(backup))
    assert not server.alive()
    assert read_objects(target.home) == OBJECTS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_backup_that_is_interrupted_leaves_no_file(stack: Cli, backup: Path, number: int) -> None:
    before = sorted(stack.folder.iterdir())
    process = stack.start("backup", "other.tar")
    wait_until(lambda: bool(list(stack.folder.glob(".other.tar-*/backup.tar"))), "the file")
    server = psutil.Process(stack.home.read().store.process.pid)
    process.send_signal(number)
    assert process.wait(60) in INTERRUPTED, process.communicate()
    process.communicate()
    assert sorted(stack.folder.iterdir()) == before
    assert not server.is_running()
