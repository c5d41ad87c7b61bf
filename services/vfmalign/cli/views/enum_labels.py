"""Labels of the API's enum values: `running` for `JOB_STATE_RUNNING`, as the options and the tables spell them."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from vfmalign.client.messages.base import enum_labels, get_enum_label
from vfmalign.core.domain.errors import BadOption

ENDED = ("succeeded", "failed", "cancelled")
"""States that jobs, checks and experiments do not leave again."""
PRETRAINING_OBJECTIVES = ("masked_reconstruction", "contrastive")


def get_labels(enum: Any) -> tuple[str, ...]:
    """Returns the labels of an enum such as `finetuning_pb2.JobState`, in the order of the proto."""
    return enum_labels(enum.DESCRIPTOR)


def label(message: Message, field: str) -> str:
    """Returns the label of a message's enum field; `unknown` for a value of a newer API, or an unspecified one."""
    enum: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    return get_enum_label(enum, getattr(message, field)) or "unknown"


def parse(enum: Any, text: str, option: str) -> Any:
    """Returns the value of an enum for its label.

    Args:
        enum: such as `finetuning_pb2.JobState`.
        text: the label.
        option: the option that it comes from, as errors name it.

    Raises:
        BadOption: the enum has no such label.
    """
    labels = get_labels(enum)
    check_choice(text, labels, option)
    return enum.DESCRIPTOR.values[labels.index(text) + 1].number


def check_choice(text: str, choices: tuple[str, ...], option: str) -> None:
    """Check that an option has one of the possible values.

    Raises:
        BadOption: it has another one.
    """
    if text not in choices:
        raise BadOption(
            f"{text[:64]!r} is not a valid value", field=option, remedy=f"choose one of {', '.join(choices)}"
        )
