"""Task and its parameters in jobs, checks and experiments. `common.proto` documents them."""

from __future__ import annotations

from typing import Any, ClassVar

from google.protobuf.message import Message
from pydantic import SerializationInfo, SerializerFunctionWrapHandler, model_serializer

from vfmalign.client.messages.base import VIA_PROTO, ApiMessage
from vfmalign.core.domain import task_text
from vfmalign.v1 import common_pb2


class Task(ApiMessage, task_text.Task):
    """A task with its parameters.

    You can write a task in its short form: `Task.parse("segmentation:label=hippocampus")`.

    Stored specs contain the short form. The short form of a task without parameters is its name. Specs from versions in
    which tasks had no parameters therefore keep their digests.
    """

    PROTO: ClassVar[type[Message]] = common_pb2.Task

    @model_serializer(mode="wrap")
    def _to_short_form(  # type: ignore[override]  # pydantic calls it by the mode that it is decorated with
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> Any:
        return handler(self) if info.context == VIA_PROTO else str(self)
