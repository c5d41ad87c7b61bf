"""Reading headers without trusting them: what pydicom raises or prints for damaged content never gets further.

Its messages quote values of headers, which may be patients' names.
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
"""What pydicom gives for several values: a list where they are binary numbers."""
MAX_VALUE_BYTES = 2**16
"""Most bytes of text or numbers, of all values of an attribute, that are converted. Most types have a length of 16
bits, unless the transfer syntax leaves types out.
"""
MAX_CHARACTER_SETS = 8
"""Most values of SpecificCharacterSet, of a header or an item. The standard has more; nobody writes in all of them."""
MAX_ELEMENTS_PER_ITEM = 100
"""Most elements of a header, with those of its sequences, for each item that it may have."""
_CHECK_INTERVAL = 256
"""Elements between two checks of whether somebody waits for the result."""
_CONVERTED = STR_VR | INT_VR | FLOAT_VR
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""How an item begins, in little-endian and big-endian files."""
_CHARACTER_SET = 0x00080005
_CHARACTER_SETS = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")
"""How SpecificCharacterSet begins in them."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_START_BYTES = 8
"""What pydicom reads first of an element or an item."""


class Reading:
    """What is counted while a header is read, with all of its sequences.

    Args:
        max_items: most items; it may grow while the header is read.
    """

    def __init__(self, max_items: float) -> None:
        self.max_items = max_items
        self._elements = self._items = 0
        self._ended: VfmalignError | None = None

    def count(self, start: bytes) -> None:
        """Counts an element or item that begins so.

        Raises:
            BadVolume: there are too many.
            Cancelled, DeadlineExceeded: see `WorkContext`.
        """
        self._elements += 1
        self._items += start in _ITEMS
        try:
            if self._elements % _CHECK_INTERVAL == 0:
                current_work.get().checkpoint()
            if self._items > self.max_items:
                raise refuse_header(f"has more than {self.max_items:,} items in its sequences")
            if self._elements > self.max_items * MAX_ELEMENTS_PER_ITEM:
                raise refuse_header(f"has more than {self.max_items * MAX_ELEMENTS_PER_ITEM:,} elements")
        except VfmalignError as error:
            self._ended = error
            raise

    def check(self) -> None:
        """Raises again what `count` has raised: pydicom makes another error of what is raised before an item."""
        if self._ended is not None:
            raise self._ended


_reading: ContextVar[Reading | None] = ContextVar("vfmalign_dicom_reading", default=None)
"""The header that is read. What is parsed later, because it was damaged, has no limit, and ends with the call."""


@contextmanager
def count_reading(max_items: int) -> Iterator[Reading]:
    """Counts what is read in the block."""
    reading = Reading(max_items)
    token = _reading.set(reading)
    try:
        yield reading
    finally:
        _reading.reset(token)


class CheckedBytes(io.BytesIO):
    """Bytes that pydicom parses, one element after the other, within the limits of the header that is read."""

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
            self._reading.count(start)
        return content


def _check_character_sets(value: bytes) -> None:
    if value.count(b"\\") >= MAX_CHARACTER_SETS:
        raise refuse_header(f"names more than {MAX_CHARACTER_SETS} character sets (SpecificCharacterSet)")


def refuse_header(message: str) -> BadVolume:
    """Returns the error for a header that is not read."""
    return BadVolume(message, subject="file", remedy="export it again, or move it away")


@contextmanager
def refuse_damage(name: str) -> Iterator[None]:
    """Raises `BadVolume` for whatever pydicom raises in the block, and keeps them from printing.

    Args:
        name: name of the object in errors; never one of a file, which may name a patient.
    """
    silence_libraries()
    try:
        yield
    except VfmalignError:
        raise
    except OSError:
        raise BadVolume(
            "a file cannot be read any more", subject=name, remedy="check that the source is still there, and try again"
        ) from None
    except Exception:  # damaged content raises many types, from AttributeError to struct.error and RecursionError
        raise BadVolume(
            "damaged or truncated DICOM: its header or its pixels cannot be read",
            subject=name,
            remedy="copy the files or export the series again",
        ) from None


def silence_libraries() -> None:
    """Keeps pydicom from printing values of headers and converting long ones, from now on in the whole process."""
    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    # No `warnings.catch_warnings`, which would undo that of another thread.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    hooks.register_callback("raw_element_value", _convert_value)


def _convert_value(raw: RawDataElement, data: dict[str, Any], **options: Any) -> None:
    """Converts a value as pydicom does, which makes objects of every two bytes of text or numbers.

    Sequences are parsed within the limits of the header that is read.

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
    """Returns the type of a value; that of an attribute of the standard where a transfer syntax leaves it out."""
    if element.VR not in (None, VR.UN) or element.tag >> 16 & 1:
        return element.VR
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return element.VR


def is_cut_off(element: DataElement | RawDataElement) -> bool:
    """Whether the file ended within the value of an element; pydicom returns what is there of it."""
    if not isinstance(element, RawDataElement) or element.value is None or element.length == _UNDEFINED_LENGTH:
        return False
    return len(element.value) < element.length


def list_items(dataset: Dataset, reading: Reading) -> list[Dataset]:
    """Returns the items of the sequences of a dataset; those of a damaged one count as absent.

    A sequence that is cut off stays as it is, so that `is_cut_off` can still tell.

    Args:
        dataset: a header, or an item of it.
        reading: counts them.

    Raises:
        BadVolume: they exceed a limit of the header that is read.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    items: list[Dataset] = []
    for element in dataset.elements():
        if get_representation(element) == VR.SQ and not is_cut_off(element):
            try:
                items += dataset[element.tag].value or ()
            except VfmalignError:
                raise
            except Exception:  # pydicom raises many types
                reading.check()
    return items


def find(datasets: Sequence[Dataset], keyword: str) -> Any:
    """Returns the first value of an attribute that is not empty; None without one.

    A value that cannot be read, such as a number that is none, counts as absent: pydicom raises many types for it.

    Args:
        datasets: where to look, the most specific first.
        keyword: of the attribute.
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
    """Returns a value of the private block of a creator; None without one that can be read."""
    for dataset in datasets:
        try:
            return dataset.private_block(group, creator)[element].value
        except (Cancelled, DeadlineExceeded):
            raise
        except Exception:  # noqa: S112 - KeyError without the block, others for a value that cannot be read
            continue
    return None


def to_first_text(value: Any) -> str:
    """The first of the values as text, or nothing; bytes are text whose type an implicit transfer syntax lost."""
    if isinstance(value, MULTIPLE):
        value = value[0] if value else ""
    if isinstance(value, bytes):
        value = value.split(b"\\")[0].rstrip(b"\0 ").decode("ascii", "replace")
    return "" if value is None else str(value).strip()


def cut_text(text: str, most: int) -> str:
    """Returns a text of at most `most` characters, without the word that the limit would divide.

    A name whose end is missing would not be recognised where names are hidden; see `screening`.
    """
    stripped = text.strip()
    return stripped if len(stripped) <= most else re.sub(r"\S*\Z", "", stripped[: most + 1]).rstrip()


def list_texts(datasets: Sequence[Dataset], keyword: str) -> list[str]:
    """The values of an attribute as text."""
    value = find(datasets, keyword)
    return [str(item).strip() for item in value] if isinstance(value, MULTIPLE) else [to_first_text(value)]
