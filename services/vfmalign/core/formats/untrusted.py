"""Reads untrusted files and JSON within bounds. Escapes characters that a terminal or page would execute."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import BinaryIO, Never

from pydantic import JsonValue

MAX_JSON_DEPTH = 64
"""Maximum nesting depth of lists and objects. A graph of `torch.export` has about 15 levels."""
_SUSPECT = re.compile(r"[^\n\t -~]")
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control and format characters (the bidirectional ones among them), surrogates, separators of lines and paragraphs."""


def open_regular_file(path: Path, max_bytes: int) -> BinaryIO:
    """Opens a regular file for reading. The function never waits for a pipe and never opens a device.

    Raises:
        OSError: the file cannot be opened, is not a regular file (EINVAL), or is larger than `max_bytes` (EFBIG).
    """
    _check_file(path.stat(), max_bytes)  # first, because opening a device may have effects
    # The path may name something else by now. O_NONBLOCK: opening a pipe would wait for its writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_file(os.fstat(file.fileno()), max_bytes)
    except OSError:
        file.close()
        raise
    return file


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file up to its size at the time of opening. Raises the errors of `open_regular_file`."""
    with open_regular_file(path, max_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def parse_json(data: bytes | str, max_bytes: int, *, unique_names: bool = False) -> JsonValue:
    """Returns the value of a JSON document.

    Args:
        data: document, as text or as bytes in UTF-8, UTF-16 or UTF-32. Bytes may begin with a byte order mark.
        max_bytes: maximum size in bytes, or in characters if `data` is a `str`.
        unique_names: if true, reject an object that repeats a name; if false, the last value counts.

    Raises:
        ValueError: the document is not JSON, is larger than `max_bytes`, is nested deeper than `MAX_JSON_DEPTH`, or
            contains NaN or an infinite number. The message states the cause, but does not quote the document.
    """
    if len(data) > max_bytes:
        raise ValueError(f"larger than {_format_size(max_bytes)}")
    try:
        value: JsonValue = json.loads(
            data,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            object_pairs_hook=_to_dict if unique_names else None,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels") from None
    except UnicodeError:
        raise ValueError("not text in UTF-8, UTF-16 or UTF-32") from None
    _check_depth(value)
    return value


def read_json(path: Path, max_bytes: int) -> JsonValue:
    """Returns the value of a JSON file.

    Raises:
        OSError: see `open_regular_file`.
        ValueError: see `parse_json`.
    """
    return parse_json(read_regular_file(path, max_bytes), max_bytes)


def describe_failure(error: OSError | ValueError) -> str:
    """Returns the cause of an error of `read_json`, without the path that the text of an OSError contains."""
    return (error.strerror or "unknown reason") if isinstance(error, OSError) else str(error)


def to_printable(text: str) -> str:
    r"""Escapes characters that would move, hide or control other text on a terminal or a page.

    Uses JSON escapes such as `\u202e`. A JSON document therefore keeps its value. Line ends and tabs stay.
    """
    return text if text.isprintable() else _SUSPECT.sub(_escape_unsafe, text)


def _escape_unsafe(match: re.Match[str]) -> str:
    character = match[0]
    return json.dumps(character)[1:-1] if unicodedata.category(character) in _UNSAFE_CATEGORIES else character


def _check_file(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {_format_size(max_bytes)}")


def _format_size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:g} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"has the number {name}, which is not JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("has a number that is too large")
    return value


def _to_dict(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("names a member of an object twice")
    return content


def _check_depth(value: JsonValue) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        if not (level := [part for part in level if isinstance(part, dict | list)]):
            return
        level = [part for group in level for part in (group.values() if isinstance(group, dict) else group)]
    raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
