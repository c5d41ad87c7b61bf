"""One hostile request, and what it may rely on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from vfmalign.core.storage.store.object_store import ObjectStore


@dataclass(frozen=True)
class Inputs:
    """What the services know before the rows are sent.

    Attributes:
        store: its bucket holds the model `micro`, the dataset `phantoms` (test: one case), and what rows add.
        study: volumes of a valid study as NIfTI bytes, by modality.
        features: id of a stored feature set of 8 rows and the layer `stages.3` with 4 channels.
        reference: id of a stored feature set of 60 rows with the same layer.
        preprocessing: digest of what the images of both went through.
        monitor: id of the monitor whose reference this is.
    """

    store: ObjectStore
    study: dict[str, bytes]
    features: str
    reference: str
    preprocessing: str
    monitor: str = "watched"


@dataclass(frozen=True)
class Row:
    """One hostile request.

    Attributes:
        name: what is wrong with it, in a few words.
        rpc: `<service>/<method>`, such as `MmdService/Compute`.
        build: returns the request, or its encoded bytes; may store objects first.
        code: the expected status.
        names: text that the error must contain: the field, the object, or what is wrong.
        metadata: of the call.
        authorization: values of that header; None sends the token of an owner.
    """

    name: str
    rpc: str
    build: Callable[[Inputs], Message | bytes]
    code: str
    names: str = ""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    authorization: tuple[str, ...] | None = None
