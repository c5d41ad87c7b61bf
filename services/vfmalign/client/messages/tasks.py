"""Task with its parameters, as jobs, checks and experiments name it; documented in `common.proto`."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from google.protobuf.message import Message
from pydantic import (
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from vfmalign.client.messages.base import FOR_PROTO, ApiMessage, to_bad_option
from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.core.domain.task_text import format_task, parse_task
from vfmalign.v1 import common_pb2


class Task(ApiMessage):
    """A task with its parameters. It can be written in its short form: `Task.parse("segmentation:label=hippocampus")`.

    Stored specs hold the short form, which is the name alone for a task without parameters: specs and digests of
    versions whose tasks had none stay as they are.

    Attributes:
        name: name of the task.
        parameters: what the task is about; empty ones take the dataset's defaults.
    """

    PROTO: ClassVar[type[Message]] = common_pb2.Task

    name: str
    parameters: TaskParameters = TaskParameters()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the task of a short form.

        Raises:
            BadOption: the text has another form.
        """
        name, parameters = parse_task(text)
        try:
            return cls(name=name, parameters=parameters)
        except ValidationError as error:
            raise to_bad_option(error) from error

    def __str__(self) -> str:
        """Returns the short form."""
        return format_task(self.name, self.parameters)

    @model_validator(mode="before")
    @classmethod
    def _parse_short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        name, parameters = parse_task(value)
        return {"name": name, "parameters": parameters}

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name:
            raise ValueError("no task is named")
        return name

    @model_serializer(mode="wrap")
    def _serialise(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        return handler(self) if info.context == FOR_PROTO else str(self)
