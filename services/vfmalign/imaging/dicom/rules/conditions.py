"""Conditions on the attributes of a volume: their form in a declaration file, and why a condition is not met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, Self

import re2
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from vfmalign.core.domain.record import Record
from vfmalign.imaging.dicom.frames import DERIVED, KEYWORDS, NUMBER_KEYWORDS, AttributeValue

MAX_DEPTH = 8
"""Maximum depth of nested conditions."""
MAX_CONDITIONS = 256
"""Maximum number of conditions of a selection, including nested ones."""
MAX_TEXT = 256
"""Maximum length of a value or a regular expression."""
MAX_VALUES = 64
ACQUISITION_TIME = "AcquisitionTime"
"""Time of day of a series' first image. Only preferences can name it, and it is never printed."""
NUMBERS = frozenset((*NUMBER_KEYWORDS, "slices", "b_value"))
"""Numeric attributes; all others are text."""
WORDS = {
    "orientation": ("transverse", "coronal", "sagittal", "oblique"),
    "diffusion": ("trace", "direction", "none", "adc"),
}
"""The values of derived attributes."""
_MAX_SHOWN = 40
_MAX_REASONS = 3


def _refuse(message: str, remedy: str) -> PydanticCustomError:
    # The message is passed as context, because pydantic would interpret braces in a message as names.
    return PydanticCustomError("rule", "{problem}", {"problem": message, "remedy": remedy})


def _check_value(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _refuse("neither text nor a number", "give a text in quotes, or a number")
    if isinstance(value, str) and not 1 <= len(value) <= MAX_TEXT:
        raise _refuse("empty or too long", f"give a text of 1 to {MAX_TEXT} characters")
    if not isinstance(value, str) and not -1e300 < value < 1e300:  # also for integers beyond float
        raise _refuse("not a finite number", "choose a finite number")
    return value


def _check_keyword(keyword: str) -> str:
    if keyword not in KEYWORDS and keyword not in DERIVED:
        raise _refuse(
            "not an attribute of rules",
            f"use all, any, not, {', '.join(DERIVED)} or one of the keywords that `vfmalign dicom show --json` lists",
        )
    return keyword


def _check_number_keyword(keyword: str) -> str:
    if keyword not in NUMBERS and keyword != ACQUISITION_TIME:
        raise _refuse("not a numeric attribute", "choose one, such as b_value, slices or SeriesNumber")
    return keyword


def _check_pattern(pattern: str) -> str:
    try:
        _compile(pattern)
    except re2.error:  # its text quotes the pattern
        raise _refuse(
            "not a regular expression that RE2 takes",
            "see github.com/google/re2/wiki/Syntax; it has neither look-around nor back-references",
        ) from None
    return pattern


@lru_cache(maxsize=128)  # rules come from outside, and a compiled expression may take 1 MiB
def _compile(pattern: str) -> Any:
    """Compiles a pattern with RE2, which takes linear time to match a text."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 2**20
    return re2.compile(pattern, options)


Value = Annotated[str | float, BeforeValidator(_check_value)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
NumberKeyword = Annotated[str, AfterValidator(_check_number_keyword)]


class Condition(Record):
    """Condition on one attribute.

    If the attribute has several values, at least one of them must meet all fields that are set.

    Attributes:
        equals: the value must equal this one; case is ignored.
        contains: the value must contain this text; case is ignored.
        regex: this regular expression (RE2 syntax) must match a part of the value.
        min, max: smallest and largest allowed number.
        in_: the value must equal one of these values, compared as for `equals`.
        absent: if true, the attribute must be absent; if false, it may have any value.
    """

    equals: Value | None = None
    contains: Text | None = None
    regex: Annotated[Text, AfterValidator(_check_pattern)] | None = None
    min: Number | None = None
    max: Number | None = None
    in_: tuple[Value, ...] | None = Field(default=None, alias="in", min_length=1, max_length=MAX_VALUES)
    absent: bool | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        if not given or ("absent" in given and len(given) > 1):
            raise _refuse("it has no field, or `absent` with others", "state what the attribute must be")
        return self

    @property
    def values(self) -> tuple[str | float, ...]:
        """Values of `equals` and `in`."""
        return (*(self.in_ or ()), *(() if self.equals is None else (self.equals,)))

    @property
    def is_textual(self) -> bool:
        """Whether the condition applies only to text."""
        return bool(self.contains or self.regex) or any(isinstance(value, str) for value in self.values)

    @property
    def is_numeric(self) -> bool:
        """Whether the condition applies only to numbers."""
        bounds = self.min is not None or self.max is not None
        return bounds or any(not isinstance(value, str) for value in self.values)


def _expand(content: object) -> object:
    """Expands a plain value to a condition with `equals`."""
    return content if isinstance(content, dict | Condition) else {"equals": content}


Expanded = Annotated[Condition, BeforeValidator(_expand)]


class Conditions(Record):
    """Conditions that must all hold. Every member other than these fields is the name of an attribute.

    Attributes:
        all: groups of conditions that must all hold.
        any: groups of conditions, at least one of which must hold.
        not_: a group of conditions that must not hold.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, AfterValidator(_check_keyword)], Expanded] = Field(init=False)

    all: tuple[Conditions, ...] | None = Field(default=None, min_length=1, max_length=MAX_CONDITIONS)
    any: tuple[Conditions, ...] | None = Field(default=None, min_length=1, max_length=MAX_CONDITIONS)
    not_: Conditions | None = Field(default=None, alias="not")

    @property
    def attributes(self) -> Mapping[str, Condition]:
        """The condition on each attribute, in the order of the file."""
        return self.__pydantic_extra__

    @property
    def groups(self) -> tuple[Conditions, ...]:
        """The groups of conditions directly below this group."""
        return (*(self.all or ()), *(self.any or ()), *(() if self.not_ is None else (self.not_,)))

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if not self.attributes and not self.groups:
            raise _refuse("no condition", "name at least one attribute")
        for keyword, condition in self.attributes.items():
            _check_kind(keyword, condition)
        return self

    def list_attributes(self) -> list[str]:
        """Returns the attributes that the conditions test, in the order of the file.

        An attribute may occur more than once.
        """
        return [*self.attributes, *(name for group in self.groups for name in group.list_attributes())]

    def measure(self) -> tuple[int, int]:
        """Returns the nesting depth and the number of conditions."""
        nested = [group.measure() for group in self.groups]
        depth = 1 + max((depth for depth, _ in nested), default=0)
        return depth, len(self.attributes) + sum(count for _, count in nested)


def _check_kind(keyword: str, condition: Condition) -> None:
    """Refuses a condition that can never hold."""
    if keyword in NUMBERS and condition.is_textual:
        raise _refuse(f"{keyword} is a number", "use a number without quotes, or min, max, in")
    if keyword not in NUMBERS and condition.is_numeric:
        raise _refuse(f"{keyword} is text", "put the value in quotes, or use contains, regex, in")
    words = WORDS.get(keyword)
    if words and any(value not in words for value in condition.values):
        raise _refuse(f"{keyword} has no such value", f"choose one of {', '.join(words)}")


Attributes = Mapping[str, AttributeValue]
Show = Callable[[str], str]
"""Returns the value of an attribute as a text that can be printed."""


def find_unmet(conditions: Conditions, attributes: Attributes, show: Show) -> str:
    """Returns why the conditions do not hold, such as `EchoTime is 1.53, below 60`; empty if they hold.

    Args:
        conditions: the conditions.
        attributes: attributes of the volume.
        show: returns an attribute's value in printable form.
    """
    for keyword, condition in conditions.attributes.items():
        if reason := _find_unmet(keyword, condition, attributes.get(keyword), show):
            return reason
    for group in conditions.all or ():
        if reason := find_unmet(group, attributes, show):
            return reason
    if conditions.any is not None:
        reasons = [find_unmet(group, attributes, show) for group in conditions.any]
        if all(reasons):
            return _join(reasons)
    if conditions.not_ is not None and not find_unmet(conditions.not_, attributes, show):
        return f"{_describe_met(conditions.not_, attributes, show)}, which is excluded"
    return ""


def _find_unmet(keyword: str, condition: Condition, value: AttributeValue | None, show: Show) -> str:
    if condition.absent is True:
        return "" if value is None else f"{keyword} is {show(keyword)}, but must be absent"
    if value is None:
        return f"no {keyword}"
    parts = value if isinstance(value, tuple) else (value,)
    if any(not find_difference(condition, part, str) for part in parts):
        return ""
    return f"{keyword} {find_difference(condition, parts[0], partial(show, keyword))}"


def find_difference(condition: Condition, value: str | float, show: Callable[[], str]) -> str:
    """Returns why a value does not meet a condition, such as `is 1.53, below 60`; empty if it does.

    Args:
        condition: the condition.
        value: a single value.
        show: returns the attribute's value in printable form.
    """
    if isinstance(value, str):
        folded = value.casefold()
        texts = {item.casefold() for item in condition.values if isinstance(item, str)}
        if condition.contains is not None and condition.contains.casefold() not in folded:
            return f"does not contain {_cut(condition.contains)}"
        # RE2 takes UTF-8, which cannot hold half of a surrogate pair.
        if condition.regex is not None and not _compile(condition.regex).search(
            value.encode(errors="replace").decode()
        ):
            return "does not match"
        return f"is {show()}, not {_list(condition.values)}" if condition.values and folded not in texts else ""
    if condition.min is not None and value < condition.min:
        return f"is {show()}, below {condition.min:g}"
    if condition.max is not None and value > condition.max:
        return f"is {show()}, above {condition.max:g}"
    is_other = condition.values and value not in condition.values
    return f"is {show()}, not {_list(condition.values)}" if is_other else ""


def _describe_met(conditions: Conditions, attributes: Attributes, show: Show) -> str:
    """Describes the attributes because of which conditions hold."""
    parts = [
        f"{keyword} is {show(keyword)}" if keyword in attributes else f"no {keyword}"
        for keyword in conditions.attributes
    ]
    parts += [_describe_met(group, attributes, show) for group in conditions.all or ()]
    for group in conditions.any or ():
        if not find_unmet(group, attributes, show):
            parts.append(_describe_met(group, attributes, show))
            break
    return _join(parts) if parts else "the conditions of `not` hold"


def _join(reasons: list[str]) -> str:
    distinct = list(dict.fromkeys(reasons))
    more = f" and {len(distinct) - _MAX_REASONS} more" if len(distinct) > _MAX_REASONS else ""
    return " and ".join(distinct[:_MAX_REASONS]) + more


def _list(values: tuple[str | float, ...]) -> str:
    return " or ".join(format_value(value) for value in values[:_MAX_REASONS]) + (
        " …" if len(values) > _MAX_REASONS else ""
    )


def format_value(value: AttributeValue) -> str:
    """Formats an attribute's value in at most 40 characters, such as `104` or `ORIGINAL, PRIMARY`."""
    if isinstance(value, tuple):
        return _cut(", ".join(format_value(part) for part in value))
    return _cut(value) if isinstance(value, str) else f"{value:g}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
