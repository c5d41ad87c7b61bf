"""Registry of this user's stacks on this machine. A command that finds no stack can name the running stacks.

Each running stack has a file that contains the path of its state folder. Files of killed stacks are ignored.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.private_files import write_private
from vfmalign.core.domain.errors import BadOption

FOLDER = "$XDG_STATE_HOME/vfmalign or ~/.local/state/vfmalign"


def register(directory: StateDirectory) -> None:
    """Records that a stack runs.

    Raises:
        OSError: the file cannot be written.
    """
    file = _get_file(directory)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, os.fsencode(directory.path))


def unregister(directory: StateDirectory) -> None:
    """Forgets a stack."""
    try:
        _get_file(directory).unlink(missing_ok=True)
    except OSError:
        return  # a folder that cannot be written, as the start has said; the file of a stopped stack is ignored


def list_running() -> list[StateDirectory]:
    """Returns the state folders in which stacks run, in order of path."""
    folder = _get_folder()
    try:
        paths = {os.fsdecode(file.read_bytes()) for file in folder.iterdir() if not file.name.startswith(".")}
    except OSError:
        return []
    return [directory for path in sorted(paths) if _runs(directory := StateDirectory(Path(path)))]


def describe_running(other_than: StateDirectory | None = None) -> str:
    """Returns a clause that names the running stacks and the option that chooses a stack; empty if no stack runs.

    Args:
        other_than: state folder of the stack that the command already uses; this stack is not named.
    """
    paths = [str(folder.path) for folder in list_running() if other_than is None or folder.path != other_than.path]
    if not paths:
        return ""
    one, more = ("a stack", "stacks") if other_than is None else ("another stack", "other stacks")
    what = f"{one} runs" if len(paths) == 1 else f"{len(paths)} {more} run"
    return f"{what} in {', '.join(paths)}: name {'it' if len(paths) == 1 else 'one'} with `--home` or VFMALIGN_HOME"


def _runs(directory: StateDirectory) -> bool:
    try:
        return directory.read().running
    except BadOption:  # the folder has been replaced by something else
        return False


def _get_folder() -> Path:
    """The folder of this machine; a home may be shared by several."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    root = base if base.is_absolute() else Path.home() / ".local" / "state"
    return root / "vfmalign" / "stacks" / (platform.node() or "localhost")


def _get_file(directory: StateDirectory) -> Path:
    return _get_folder() / hashlib.sha256(os.fsencode(directory.path)).hexdigest()[:32]
