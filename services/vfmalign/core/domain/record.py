"""Base class of stored records, and formats of ids and digests."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from vfmalign.core.domain.errors import BadOption


@dataclass(frozen=True)
class TextFormat:
    """Format of a text, such as an id. Requests (`bounds.proto`), records and files share these formats.

    Attributes:
        form: regular expression that the whole text must match.
        problem: error message for a text that does not match.
        remedy: remedy of that error.
        length: maximum number of characters; None if the remedy already states the maximum.
    """

    form: str
    problem: str
    remedy: str
    length: int | None = None

    @property
    def full_remedy(self) -> str:
        """Remedy that also states the maximum length."""
        return self.remedy if self.length is None else f"{self.remedy}, and at most {self.length} characters"

    @property
    def pattern(self) -> str:
        """Pattern for a required text."""
        return f"^{self.form}$"

    @property
    def optional_pattern(self) -> str:
        """Pattern for a text that may be empty."""
        return f"^({self.form})?$"

    def matches(self, text: str) -> bool:
        """Returns whether a text has this format."""
        return re.fullmatch(self.form, text) is not None

    def check(self, text: str, field: str) -> str:
        """Checks that a text has this format, and returns it.

        Raises:
            BadOption: the text has another format. The error names the field.
        """
        if not self.matches(text):
            # A field may allow fewer characters than the format, so the length is named only if it is the problem.
            is_long = self.length is not None and len(text) > self.length
            raise BadOption(self.problem, field=field, remedy=self.full_remedy if is_long else self.remedy)
        return text


ID = TextFormat(
    r"[a-z0-9][a-z0-9_.-]{0,127}",
    "not a valid id",
    "use lower-case letters, digits, `_`, `.` and `-`, the first a letter or digit",
    length=128,
)
SHA256 = TextFormat(r"[0-9a-f]{64}", "not a SHA-256 digest", "give 64 lower-case hexadecimal digits")
VOLUME_KIND = TextFormat(
    r"[a-z][a-z0-9_]{0,31}",
    "not a valid id",
    "use a lower-case letter, then lower-case letters, digits and `_`",
    length=32,
)
UID = TextFormat(
    r"[0-9]+(\.[0-9]+)*",
    "not a valid DICOM UID",
    "use numbers separated by dots, such as 1.2.840.10008",
    length=64,
)
LICENCE = TextFormat(
    r"[A-Za-z0-9.+-]{1,128}",
    "not an SPDX id of a licence",
    "use an id of spdx.org/licenses, such as Apache-2.0, or LicenseRef-NAME",
    length=128,
)
FORMATS = (ID, SHA256, VOLUME_KIND, UID, LICENCE)

Id = Annotated[str, StringConstraints(pattern=ID.pattern)]
OptionalId = Annotated[str, StringConstraints(pattern=ID.optional_pattern)]
"""An id, or empty for none or for the default."""
Sha256 = Annotated[str, StringConstraints(pattern=SHA256.pattern)]
Uid = Annotated[str, StringConstraints(pattern=UID.pattern, max_length=64)]
Licence = Annotated[str, StringConstraints(pattern=LICENCE.pattern)]
OptionalLicence = Annotated[str, StringConstraints(pattern=LICENCE.optional_pattern)]
"""An SPDX id, or empty if the licence is unknown."""
OptionalSha256 = Annotated[str, StringConstraints(pattern=SHA256.optional_pattern)]
"""A digest, or empty where any is accepted."""

MAX_KEY_BYTES = 1024


def check_key(key: str) -> str:
    """Checks that a key of the object storage is canonical. No object has two canonical keys.

    Raises:
        ValueError: the key is empty or too long, or contains an empty, `.` or `..` segment, a control character or a
            backslash. Some object stores interpret a backslash as a slash.
    """
    segments = key.split("/")
    is_text = key.isprintable() and "\\" not in key
    if len(key.encode()) > MAX_KEY_BYTES or not is_text or not {"", ".", ".."}.isdisjoint(segments):
        raise ValueError("not a canonical key")
    return key


Key = Annotated[str, AfterValidator(check_key)]


class Record(BaseModel):
    """Base class of stored records.

    Records are frozen and reject unknown fields. Validation errors do not quote values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def to_json(self) -> bytes:
        """Returns canonical JSON with sorted keys and no spaces. Equal records therefore have equal digests."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """Returns the SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


def canonical_json(value: object) -> bytes:
    """Encodes a value as JSON with sorted keys, no spaces and no NaN. Equal values have equal encodings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def describe_invalid(error: ValidationError) -> str:
    """Describes the first problem of a stored record in at most 300 characters, without the offending value.

    Keys that are not field names are also omitted, because the writer of the object chose them. Such keys may contain a
    patient's name.
    """
    problem = error.errors(include_input=False, include_url=False)[0]
    known = {*_get_field_names(Record), "[key]"}  # the latter is pydantic's own, for a key that is wrong itself
    where = ".".join(str(part) if isinstance(part, int) or part in known else "…" for part in problem["loc"][:8])
    return f"{where} {problem['msg']}".strip()[:300]


def _get_field_names(record: type[Record]) -> set[str]:
    """Returns the names of the fields of a kind of records and of all kinds that derive from it."""
    return set(record.model_fields).union(*map(_get_field_names, record.__subclasses__()))


def is_id(text: str) -> bool:
    """Returns whether `text` is an id: lower-case letters, digits, `_`, `.`, `-`; at most 128 characters."""
    return ID.matches(text)
