"""Files that only their owner may read: state, keys and tokens."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vfmalign.core.domain.errors import PreconditionFailed


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file atomically. The new file always has mode 0600."""
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    partial.unlink(missing_ok=True)  # of a process with the same id that was killed; perhaps with another mode
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    partial.replace(path)


def get_configuration_folder() -> Path:
    """Returns `$XDG_CONFIG_HOME/vfmalign` or `~/.config/vfmalign`."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "vfmalign"


def read_private(path: Path) -> bytes:
    """Reads a file that contains a token. Refuses a file that other users can read or write.

    Raises:
        FileNotFoundError: the file does not exist.
        PreconditionFailed: the file belongs to another user, or other users can read or write it.
    """
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
            raise PreconditionFailed(
                "other users can read or change this file, which contains a token",
                subject=str(path),
                remedy=f"revoke the token at its issuer, then run `chmod 600 {path}` or delete the file",
                reason="NOT_PRIVATE",
            )
        return file.read()
