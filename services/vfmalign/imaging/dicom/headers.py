"""Reading headers without trusting them: what pydicom raises or prints for damaged content never gets further.

Its messages quote values of headers, which may be patients' names.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom import config
from pydicom.charset import default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.hooks import hooks, raw_element_value
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import FLOAT_VR, INT_VR, STR_VR, VR

from vfmalign.core.domain.errors import BadVolume, VfmalignError
from vfmalign.core.runtime.work_context import current_work

MULTIPLE = (MultiValue, list)
"""What pydicom gives for several values: a list where they are binary numbers."""
MAX_VALUE_BYTES = 2**16
"""Most bytes of text or numbers, of all values of an attribute, that are converted. Most types have a length of 16
bits, unless the transfer syntax leaves types out.
"""
_CONVERTED = STR_VR | INT_VR | FLOAT_VR


class CheckedBytes(io.BytesIO):
    """Bytes that pydicom parses, one element after the other, as long as somebody waits for the result."""

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`.

        Raises:
            Cancelled, DeadlineExceeded: see `WorkContext`.
        """
        current_work.get().checkpoint()
        return super().read(size)


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

    Sequences are parsed as long as somebody waits for the result.

    Raises:
        BadVolume: it has more than `MAX_VALUE_BYTES`.
    """
    if data["VR"] in _CONVERTED and raw.value is not None and len(raw.value) > MAX_VALUE_BYTES:
        raise BadVolume(
            f"has an attribute with more than {MAX_VALUE_BYTES // 2**10} KiB of text or numbers",
            subject="file",
            remedy="export it again, or move it away",
        )
    if data["VR"] == VR.SQ and raw.value:
        encoding = options.get("encoding") or [default_encoding]
        file = CheckedBytes(raw.value)
        offset = raw.value_tell
        data["value"] = read_sequence(file, raw.is_implicit_VR, raw.is_little_endian, len(raw.value), encoding, offset)
    else:
        raw_element_value(raw, data, **options)


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
