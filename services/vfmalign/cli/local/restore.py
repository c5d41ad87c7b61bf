"""Restores a backup into an empty state folder.

The whole file is verified before anything is written. The stack is then built in a folder beside the state folder. One
rename moves this folder into place, so the state folder is complete or absent, even after a kill. If a restore was
killed, the next restore deletes the leftover files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vfmalign import __version__
from vfmalign.cli.local import backup, processes, s3_server
from vfmalign.cli.local.backup import DIGESTS, MANIFEST, Progress
from vfmalign.cli.local.stack import Notify
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.core.domain.errors import BadOption, DigestMismatch, PreconditionFailed
from vfmalign.core.domain.record import check_key
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.storage.store.object_store import MAX_DOCUMENT_BYTES, ObjectStore

_MAX_MANIFEST_BYTES = 1 << 16
_STOP_TIMEOUT_S = 10.0
_DATABASES = [f"{backup.HOME}{name}" for name in (backup.MONITORING_DB, backup.FINETUNING_DB)]
_FILES = (*_DATABASES, *(f"{backup.HOME}{name}" for name in (backup.PORTS, *(f"{one}/" for one in backup.SECRETS))))
_NAMES = (MANIFEST, DIGESTS, backup.BUCKET, *_FILES)
"""Beginnings of all names in a backup."""
_MARKER = "restoring"
"""Marks a folder that a restore has made, so that a later restore may delete it."""


def restore(directory: StateDirectory, file: Path, notify: Notify, progress: Progress) -> int:
    """Restores a backup into the state folder of a stack. Returns the number of restored files.

    Raises:
        BadOption: the folder is not empty, or the file cannot be read.
        PreconditionFailed: another version wrote the file, or the file is damaged.
        Conflict: another restore into the folder is running.
        Unavailable: the object storage does not start, or does not answer.
    """
    home = directory.path.resolve()
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        remedy = "name a folder that is empty or does not exist, or move this one away"
        raise BadOption(f"{home} is not an empty folder", field="--home", remedy=remedy)
    digests = _verify(file, progress)
    unfinished = StateDirectory(home.with_name(f"{home.name}.restoring"))
    _delete_remains(unfinished)
    unfinished.create()
    (unfinished.path / _MARKER).touch()
    try:
        with backup.open_store(unfinished, notify) as store, _open(file) as archive:
            _restore_files(archive, digests, unfinished.path, store, progress)
        for name in _DATABASES:
            _renew_scope(unfinished.path / name.removeprefix(backup.HOME))
        for name in ("state.json", "lock", _MARKER):
            (unfinished.path / name).unlink()
        unfinished.path.rename(home)
    except BaseException as error:
        shutil.rmtree(unfinished.path, ignore_errors=True)
        if isinstance(error, OSError) and error.filename2 is not None:
            problem = f"no folder can take the place of {home} ({error.strerror})"  # a mount point, for example
            raise BadOption(problem, field="--home", remedy="name a folder that does not exist") from None
        raise
    return backup.count_files(digests)


def _verify(file: Path, progress: Progress) -> dict[str, str]:
    """Checks a whole backup, and returns the digests of its files by name.

    Raises:
        BadOption: the file cannot be read.
        PreconditionFailed: another version wrote it.
        DigestMismatch: it is damaged.
    """
    digests: dict[str, str] = {}
    with _open(file) as archive:
        for number, entry in enumerate(archive, 1):
            name = _check_name(file, entry)
            content = archive.extractfile(entry)
            if content is None or name in digests or (name == MANIFEST) != (number == 1):
                break
            if name == MANIFEST:
                _check_manifest(file, content.read(_MAX_MANIFEST_BYTES))
                content.seek(0)
            if name == DIGESTS:
                _compare(file, digests, content.read(MAX_DOCUMENT_BYTES))
                return digests
            digests[name] = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
            progress("verify", number, 0)
    raise _damaged(file, "the backup is incomplete")


def _compare(file: Path, digests: Mapping[str, str], stated: bytes) -> None:
    lines = set(stated.decode(errors="replace").splitlines())
    for name, digest in digests.items():
        if f"{digest}  {name}" not in lines:
            raise _damaged(file, f"{name} does not match its digest in {DIGESTS}")
    if len(lines) != len(digests) or not digests.keys() >= set(_DATABASES):
        raise _damaged(file, "files are missing")


@contextmanager
def _open(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:") as archive:
            yield archive
    except tarfile.TarError as error:
        raise _damaged(file, f"the backup is incomplete or damaged ({error})") from None
    except OSError as error:
        if error.filename is None or Path(error.filename) != file:
            raise
        problem = f"{file} cannot be read ({error.strerror})"
        raise BadOption(problem, field="FILE", remedy="choose a file that you can read") from None


def _damaged(file: Path, problem: str) -> DigestMismatch:
    return DigestMismatch(problem, subject=str(file), remedy="use an intact copy of the backup; nothing was restored")


def _check_name(file: Path, entry: tarfile.TarInfo) -> str:
    """Returns the name of a regular file of a backup.

    Raises:
        DigestMismatch: the entry is anything else, such as a link, or its name would lead out of its folder.
    """
    try:
        if check_key(entry.name).startswith(_NAMES) and entry.type == tarfile.REGTYPE and not entry.issparse():
            return entry.name
    except ValueError:
        pass
    raise _damaged(file, f"{entry.name!r} does not belong to a backup")


def _check_manifest(file: Path, content: bytes) -> None:
    """Checks the format before the rest, because other versions may write other manifests."""
    try:
        document: Any = parse_json(content, _MAX_MANIFEST_BYTES)
        found, version = document["format"], str(document["version"])
    except (ValueError, KeyError, TypeError):
        raise _damaged(file, f"{MANIFEST} is not the manifest of a backup") from None
    if (found, version) != (backup.FORMAT, __version__):
        problem = f"vfmalign {version[:64]} wrote the backup, and this is vfmalign {__version__}"
        remedy = "restore it with the version that wrote it, then upgrade that stack"
        raise PreconditionFailed(problem, subject=str(file), remedy=remedy, reason="OTHER_VERSION")


def _restore_files(
    archive: tarfile.TarFile, digests: Mapping[str, str], folder: Path, store: ObjectStore, progress: Progress
) -> None:
    for number, entry in enumerate(archive, 1):
        name = entry.name
        if name == DIGESTS:
            return
        is_file = name.startswith(backup.HOME)
        path = folder / (name.removeprefix(backup.HOME) if is_file else "file")
        if _extract(archive, entry, path) != digests.get(name):
            raise _damaged(Path(str(archive.name)), f"{name} has changed since it was verified")
        if name.startswith(backup.BUCKET):
            store.upload(name.removeprefix(backup.BUCKET), path)
        if not is_file:
            path.unlink()
        progress("restore", number, len(digests))


def _extract(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> str:
    """Writes a file of a backup with mode 0600, and returns the SHA-256 of its content."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = archive.extractfile(entry)
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
        if content is not None:
            shutil.copyfileobj(content, file)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _renew_scope(path: Path) -> None:
    """Gives a database an id of its own, so that its jobs have other locks than jobs of the stack that was copied."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE leases SET scope = lower(hex(randomblob(16)))")


def _delete_remains(unfinished: StateDirectory) -> None:
    """Deletes the folder of a restore that was killed, and ends its S3 server.

    Raises:
        BadOption: no restore has made the folder.
        Conflict: its restore runs.
    """
    if not unfinished.path.exists():
        return
    if not (unfinished.path / _MARKER).exists() and any(unfinished.path.iterdir()):
        problem = f"{unfinished.path} is in the way, and no restore has made it"
        raise BadOption(problem, field="--home", remedy="move it away")
    with unfinished.single_instance_lock():
        servers = list(processes.find_processes_with_open_files(unfinished.path))
        for server in servers:
            s3_server.stop(server.pid)
        processes.wait_for_exit(servers, _STOP_TIMEOUT_S)
        shutil.rmtree(unfinished.path)
