"""Backups of a local stack. A backup is a tar file of the databases, the objects, and the state folder's private files.

backup.json    first: `format`, the `version` of vfmalign, and `secrets`, a list of folders with secrets
home/          files of the state folder
bucket/        objects, by key
SHA256SUMS     last: the digests of all other files, in the format of `sha256sum`

A monitor's database and objects must come from one moment. The backup therefore holds the write lock of the monitors'
database while it copies the database and the objects. Meanwhile, no observation is recorded, and no state of a monitor
is replaced or deleted. New observations wait in the outbox, which is copied as well. Everything else may change during
the copy; the databases are copied before the objects. If an object is replaced in between, the services create it again
or continue without it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from vfmalign import __version__
from vfmalign.cli.local.stack import Notify, running_stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.core.domain.errors import BadOption, NotFound, PreconditionFailed, Unavailable
from vfmalign.core.domain.record import canonical_json, check_key
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.store.object_store import ObjectStore

FORMAT = 1
MANIFEST, DIGESTS = "backup.json", "SHA256SUMS"
HOME, BUCKET = "home/", "bucket/"
PORTS, MONITORING_DB, FINETUNING_DB = "ports.json", "state/monitoring.db", "state/finetuning.db"
SECRETS = {
    "tokens": "tokens/: the tokens of the owner and of the services, and the key that signs results",
    "private": "private/: the key of the patients' ids, and the names behind the ids",
}
"""Folders of the state folder with secrets, and how the backup lists them."""
_WITH_MONITORS = ("monitors/", OUTBOX)
_LOCK_S = 60.0

Progress = Callable[[str, int, int], None]


def list_secrets(directory: StateDirectory) -> list[str]:
    """Returns the secrets that a backup of a stack contains.

    Raises:
        BadOption: the folder does not have the databases of a stack.
    """
    for name in (PORTS, MONITORING_DB, FINETUNING_DB):
        if not (directory.path / name).exists():
            remedy = "name the state folder of a stack that has run with all services and with SQLite databases"
            raise BadOption(f"{directory.path} has no {name}", field="--home", remedy=remedy)
    return [text for folder, text in SECRETS.items() if any(_list_files(directory.path / folder))]


def back_up(directory: StateDirectory, file: Path, secrets: Sequence[str], notify: Notify, progress: Progress) -> int:
    """Writes a backup of a running or stopped stack.

    Returns the number of the stack's files in the backup. The file has mode 0600. The file appears only when it is
    complete.

    Raises:
        BadOption: the file exists, or its folder cannot be written.
        PreconditionFailed: the stack runs without object storage.
        Unavailable: a database or the object storage does not answer.
    """
    if os.path.lexists(file):
        raise BadOption(f"{file} exists", field="FILE", remedy="choose another name, or move the file away")
    manifest = canonical_json({"format": FORMAT, "version": __version__, "secrets": secrets})
    with _make_folder(file) as folder, open_store(directory, notify) as store:
        unfinished = folder / "backup.tar"
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                writer = _Writer(archive, folder / "file", progress)
                writer.add(MANIFEST, lambda path: path.write_bytes(manifest))
                _add_stack(writer, directory, store)
                sums = "".join(f"{digest}  {name}\n" for name, digest in writer.digests.items())
                writer.add(DIGESTS, lambda path: path.write_text(sums))
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.rename(file)
    return count_files(writer.digests)


def count_files(names: Iterable[str]) -> int:
    """Returns how many of these names in a backup are files of the stack."""
    return sum(name.startswith((HOME, BUCKET)) for name in names)


class _Writer:
    """Adds files to a backup.

    Args:
        archive: the backup.
        path: where each file lies before it is added.
        progress: called after each object.

    Attributes:
        digests: SHA-256 of the added files, by name.
    """

    def __init__(self, archive: tarfile.TarFile, path: Path, progress: Progress) -> None:
        self._archive, self._path, self._progress = archive, path, progress
        self.digests: dict[str, str] = {}

    def add(self, name: str, write: Callable[[Path], object]) -> None:
        """Adds a file with the content that `write` produces."""
        write(self._path)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = self._path.stat().st_size, 0o600, int(time.time())
        with self._path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            content.seek(0)
            self._archive.addfile(entry, content)
        self._path.unlink()
        self.digests[name] = digest

    def add_objects(self, store: ObjectStore, keys: Sequence[str]) -> None:
        """Adds objects. Skips objects that are deleted during the copy.

        Raises:
            PreconditionFailed: a key is not canonical, so no service can have written the object.
        """
        for number, key in enumerate(keys, 1):
            try:
                check_key(key)
                self.add(f"{BUCKET}{key}", partial(store.download, key))
            except ValueError:
                problem, remedy = "the key is not canonical", "delete the object; no service wrote it"
                raise PreconditionFailed(problem, subject=store.uri(key), remedy=remedy) from None
            except NotFound as error:
                if error.subject != store.uri(key):
                    raise  # the bucket itself is missing
            self._progress("copy", number, len(keys))


def _add_stack(writer: _Writer, directory: StateDirectory, store: ObjectStore) -> None:
    with _writes_suspended(directory.path / MONITORING_DB):
        _add_database(writer, directory, MONITORING_DB)
        writer.add_objects(store, [key for prefix in _WITH_MONITORS for key in store.list(prefix)])
    _add_database(writer, directory, FINETUNING_DB)
    for path in [directory.path / PORTS, *(path for name in SECRETS for path in _list_files(directory.path / name))]:
        writer.add(f"{HOME}{path.relative_to(directory.path)}", partial(shutil.copyfile, path))
    writer.add_objects(store, [key for key in store.list("") if not key.startswith(_WITH_MONITORS)])


def _list_files(folder: Path) -> list[Path]:
    """Returns the files below a folder, without data of unfinished imports."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and folder / "staging" not in path.parents)


def _add_database(writer: _Writer, directory: StateDirectory, name: str) -> None:
    def copy(path: Path) -> None:
        with _open_database(directory.path / name) as used, closing(sqlite3.connect(path)) as target:
            used.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file without a log

    writer.add(f"{HOME}{name}", copy)


@contextmanager
def _open_database(path: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{path.as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_S, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        remedy = "run `vfmalign doctor`, and check the free disk space; then try again"
        raise Unavailable(f"the database cannot be copied ({error})", subject=str(path), remedy=remedy) from error


@contextmanager
def _writes_suspended(path: Path) -> Iterator[None]:
    """Holds the write lock of a database during a block; writers wait. The kernel releases the lock after a kill."""
    with _open_database(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def _make_folder(file: Path) -> Iterator[Path]:
    """Makes a private folder for unfinished files beside a file, and deletes it after the block."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent)
    except OSError as error:
        problem, remedy = f"{file} cannot be written ({error.strerror})", "choose a folder in which you may write"
        raise BadOption(problem, field="FILE", remedy=remedy) from None
    with folder as path:
        yield Path(path)


@contextmanager
def open_store(directory: StateDirectory, notify: Notify) -> Iterator[ObjectStore]:
    """Opens the object storage of a stack. If the stack is stopped, starts the storage for the block.

    Raises:
        PreconditionFailed: the stack runs without object storage, or its object storage has not started yet.
        Unavailable: the object storage does not start.
    """
    state = directory.read()
    with ExitStack() as stopped_later:
        if not state.running:
            state = stopped_later.enter_context(running_stack(directory, notify, services=()))
        if state.store is None:
            remedy = f"wait until the stack serves, or stop it with {directory.get_command('down')}"
            raise PreconditionFailed("no object storage runs", subject=str(directory.path), remedy=remedy)
        yield ObjectStore(state.store.to_settings())
