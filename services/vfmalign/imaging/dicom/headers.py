"""Reading of untrusted headers. pydicom's errors and warnings about damaged content are suppressed.

Such messages of pydicom quote header values, which may be patients' names.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydicom import config
from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.hooks import hooks, raw_element_value
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import FLOAT_VR, INT_VR, STR_VR, VR

from vfmalign.core.domain.errors import BadVolume, Cancelled, DeadlineExceeded, VfmalignError
from vfmalign.core.runtime.work_context import current_work

MULTIPLE = (MultiValue, list)
"""Types of multiple values in pydicom; binary numbers are in a list."""
MAX_VALUE_BYTES = 2**16
"""Maximum total size of the text or numbers of an attribute that are converted. Most types have a 16-bit length, except
in transfer syntaxes that do not state types.
"""
MAX_CHARACTER_SETS = 8
"""Maximum number of values of SpecificCharacterSet in a header or item. The standard defines more; no file uses all."""
MAX_ELEMENTS_PER_ITEM = 100
"""Maximum number of elements of a header, including its sequences, for each item that it may have."""
_CHECK_INTERVAL = 256
"""Number of elements between two checks for cancellation."""
_CONVERTED = STR_VR | INT_VR | FLOAT_VR
_MAYBE_SEQUENCES = (VR.SQ, VR.UN, None)
"""Types of elements that may be sequences; some transfer syntaxes do not state the type."""
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""First bytes of an item, in little-endian and big-endian files."""
_CHARACTER_SET = 0x00080005
_CHARACTER_SETS = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")
"""First bytes of SpecificCharacterSet, in little-endian and big-endian files."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_START_BYTES = 8
"""Number of bytes that pydicom reads first for an element or item."""


class Reading:
    """Counts the elements and items of a header and all of its sequences while they are read.

    Args:
        max_items: maximum number of items. The caller may raise this limit while the header is read.

    Attributes:
        elements, items: numbers of elements and items read so far, including the current ones.
    """

    def __init__(self, max_items: float) -> None:
        self.max_items = max_items
        self.elements = self.items = 0
        self._ended: VfmalignError | None = None

    def check_counts(self) -> None:
        """Checks that the counts are within their limits and that the work has not been cancelled.

        Raises:
            BadVolume: there are too many elements or items.
            Cancelled, DeadlineExceeded: see `WorkContext`.
        """
        try:
            current_work.get().checkpoint()
            if self.items > self.max_items:
                raise refuse_header(f"has more than {self.max_items:,} items in its sequences")
            if self.elements > self.max_items * MAX_ELEMENTS_PER_ITEM:
                raise refuse_header(f"has more than {self.max_items * MAX_ELEMENTS_PER_ITEM:,} elements")
        except VfmalignError as error:
            self._ended = error
            raise

    def check(self) -> None:
        """Raises the last error of `check_counts` again, if there was one. pydicom may have replaced this error."""
        if self._ended is not None:
            raise self._ended


_reading: ContextVar[Reading | None] = ContextVar("vfmalign_dicom_reading", default=None)
"""The header being read. Damaged content that pydicom parses later has no limit; it ends with the call."""


@contextmanager
def count_reading(max_items: int) -> Iterator[Reading]:
    """Counts the elements and items that the `with` block reads."""
    reading = Reading(max_items)
    token = _reading.set(reading)
    try:
        yield reading
    finally:
        _reading.reset(token)


class CheckedBytes(io.BytesIO):
    """Bytes that pydicom parses element by element, subject to the limits of the header being read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._reading = _reading.get() or Reading(math.inf)
        self._names_character_sets = False

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`.

        Raises:
            BadVolume: there are too many elements, items or character sets.
            Cancelled, DeadlineExceeded: see `WorkContext`.
        """
        content = super().read(size)
        if self._names_character_sets:  # before pydicom looks each of them up
            _check_character_sets(content)
        if size == _START_BYTES:
            start = content[:4]
            self._names_character_sets = start in _CHARACTER_SETS
            reading = self._reading
            reading.elements += 1
            reading.items += start in _ITEMS
            if reading.elements % _CHECK_INTERVAL == 0 or reading.items > reading.max_items:
                reading.check_counts()
        return content


def _check_character_sets(value: bytes) -> None:
    if value.count(b"\\") >= MAX_CHARACTER_SETS:
        raise refuse_header(f"names more than {MAX_CHARACTER_SETS} character sets (SpecificCharacterSet)")


def refuse_header(message: str) -> BadVolume:
    """Returns the error for a rejected header."""
    return BadVolume(message, subject="file", remedy="export it again, or move it away")


@contextmanager
def refuse_damage(name: str) -> Iterator[None]:
    """Converts every pydicom error in the `with` block to `BadVolume`, and suppresses pydicom's warnings.

    Args:
        name: the object's name in error messages. Never pass a file name, which may contain a patient's name.
    """
    silence_libraries()
    try:
        yield
    except VfmalignError:
        raise
    except OSError:
        raise BadVolume(
            "a file can no longer be read", subject=name, remedy="check that the source is still there, and try again"
        ) from None
    except Exception:  # damaged content raises many types, from AttributeError to struct.error and RecursionError
        raise BadVolume(
            "damaged or truncated DICOM: its header or its pixels cannot be read",
            subject=name,
            remedy="copy the files or export the series again",
        ) from None


def silence_libraries() -> None:
    """For the rest of the process, stops pydicom from printing header values and from converting long values."""
    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    # Not `warnings.catch_warnings`, which would undo the filters of another thread.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    hooks.register_callback("raw_element_value", _convert_value)


def _convert_value(raw: RawDataElement, data: dict[str, Any], **options: Any) -> None:
    """Converts a value like pydicom, but rejects long ones: pydicom creates an object for every two bytes.

    Sequences are parsed within the limits of the header being read.

    Raises:
        BadVolume: it has more than `MAX_VALUE_BYTES`, or more than `MAX_CHARACTER_SETS`.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if data["VR"] in _CONVERTED and raw.value is not None and len(raw.value) > MAX_VALUE_BYTES:
        raise refuse_header(f"has an attribute with more than {MAX_VALUE_BYTES // 2**10} KiB of text or numbers")
    if raw.tag == _CHARACTER_SET and raw.value:
        _check_character_sets(raw.value)
    if data["VR"] == VR.SQ and raw.value:
        encoding = options.get("encoding") or [default_encoding]
        file = CheckedBytes(raw.value)
        offset = raw.value_tell
        data["value"] = read_sequence(file, raw.is_implicit_VR, raw.is_little_endian, len(raw.value), encoding, offset)
    else:
        raw_element_value(raw, data, **options)


def get_representation(element: DataElement | RawDataElement) -> str | None:
    """Returns the type of a value.

    If the transfer syntax does not state types, returns the type that the standard defines.
    """
    if element.VR not in (None, VR.UN) or element.tag >> 16 & 1:
        return element.VR
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return element.VR


def is_cut_off(element: DataElement | RawDataElement) -> bool:
    """Returns whether the file ends within an element's value.

    In this case, pydicom returns only a part of the value.
    """
    if not isinstance(element, RawDataElement) or element.value is None or element.length == _UNDEFINED_LENGTH:
        return False
    return len(element.value) < element.length


def list_items(dataset: Dataset, reading: Reading) -> list[Dataset]:
    """Returns the items in the sequences of a dataset. A damaged sequence is treated as absent.

    A truncated sequence is not parsed, so that `is_cut_off` still detects the truncation.

    Args:
        dataset: a header, or an item of a header.
        reading: counter of the items.

    Raises:
        BadVolume: the number of items exceeds a limit of the header being read.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    items: list[Dataset] = []
    for element in dataset.elements():
        if element.VR in _MAYBE_SEQUENCES and get_representation(element) == VR.SQ and not is_cut_off(element):
            try:
                items += dataset[element.tag].value or ()
            except VfmalignError:
                raise
            except Exception:  # pydicom raises many types
                reading.check()
    return items


def find(datasets: Sequence[Dataset], keyword: str) -> Any:
    """Returns the first non-empty value of an attribute in several datasets; None if there is none.

    An unreadable value, such as a malformed number, is treated as absent. (pydicom raises errors of many types for such
    values.)

    Args:
        datasets: datasets to search, most specific first.
        keyword: keyword of the attribute.
    """
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    for dataset in datasets:
        if tag in dataset:
            try:
                value = dataset[tag].value
            except (Cancelled, DeadlineExceeded):
                raise
            except Exception:  # noqa: S112 - see above
                continue
            if isinstance(value, MULTIPLE) and not value:
                continue
            if value is not None and value != "":
                return value
    return None


def find_private(datasets: Sequence[Dataset], creator: str, group: int, element: int) -> Any:
    """Returns a value from a creator's private block; None if the block does not contain it in readable form."""
    for dataset in datasets:
        try:
            return dataset.private_block(group, creator)[element].value
        except (Cancelled, DeadlineExceeded):
            raise
        except Exception:  # noqa: S112 - KeyError without the block, others for a value that cannot be read
            continue
    return None


def to_first_text(value: Any) -> str:
    """Returns the first value as text; empty if there is none.

    If the transfer syntax does not state types, text may arrive as bytes.
    """
    if isinstance(value, MULTIPLE):
        value = value[0] if value else ""
    if isinstance(value, bytes):
        value = value.split(b"\\")[0].rstrip(b"\0 ").decode("ascii", "replace")
    return "" if value is None else str(value).strip()


def cut_text(text: str, most: int) -> str:
    """Shortens a text to at most `most` characters, at the end of a word."""
    stripped = text.strip()
    return stripped if len(stripped) <= most else re.sub(r"\S*\Z", "", stripped[: most + 1]).rstrip()


def list_texts(datasets: Sequence[Dataset], keyword: str) -> list[str]:
    """Returns the values of an attribute as text."""
    value = find(datasets, keyword)
    return [str(item).strip() for item in value] if isinstance(value, MULTIPLE) else [to_first_text(value)]
