"""Rows for an existing monitor, and for lists of monitors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save
from tests.hostile.finetuning_rows import ALL, DEEP, encode
from tests.hostile.row import Inputs, Row

from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import common_pb2
from vfmalign.v1 import monitoring_pb2 as pb

INVALID, PRECONDITION, LOST = "INVALID_ARGUMENT", "FAILED_PRECONDITION", "DATA_LOSS"
FIRST = "inline.observations[0]"
VECTOR = np.zeros(4, np.float32)


def list_monitors(name: str, names: str, **fields: Any) -> Row:
    """A request of ListMonitors."""
    return Row(name, "MonitoringService/ListMonitors", lambda _: pb.ListMonitorsRequest(**fields), INVALID, names)


def list_from(name: str, *position: Any) -> Row:
    """A request of ListMonitors with a page token of any position."""
    return list_monitors(name, "page_token", page_token=encode(json.dumps(position)))


def tensor(array: Any, layer: str = "stages.3") -> dict[str, Any]:
    """Features of a layer in the request."""
    return {"layer": layer, "tensor": to_tensor(np.asarray(array), allow_non_finite=True)}


def observe(
    name: str,
    names: str,
    layers: list[dict[str, Any]] | Callable[[Inputs], list[dict[str, Any]]],
    code: str = INVALID,
    origin: dict[str, str] | None = None,
    **study: Any,
) -> Row:
    """An observation of the monitor that there is; `origin` replaces fields of the right one, and {} sends none."""

    def build(inputs: Inputs) -> pb.ObserveRequest:
        right = {"checkpoint_sha256": "0" * 64, "preprocessing_sha256": inputs.preprocessing}
        return pb.ObserveRequest(
            monitor_id=inputs.monitor,
            origin=None if origin == {} else {**right, **(origin or {})},
            inline={
                "observations": [
                    {
                        "study": {"observation_id": _digest(name), "group": "g", **study},
                        "layers": layers(inputs) if callable(layers) else layers,
                    }
                ]
            },
        )

    return Row(f"monitor: {name}", "MonitoringService/Observe", build, code, names)


def stored(name: str, names: str, data: bytes | None, code: str = INVALID, key: str = "", **ref: str) -> Row:
    """An observation whose features are an object with this content; None for an object that is missing."""
    key = key or f"features/hostile/{_digest(name)}.safetensors"

    def store(inputs: Inputs) -> list[dict[str, Any]]:
        if data is not None:
            inputs.store.put(key, data)
        found = {"uri": inputs.store.uri(key), "sha256": hashlib.sha256(data or b"").hexdigest(), **ref}
        return [{"layer": "stages.3", "stored": common_pb2.ObjectRef(**found)}]

    return observe(name, names, store, code)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


ROWS = (
    list_monitors("page of -1 monitors", "page_size", page_size=-1),
    list_monitors("page of 1,001 monitors", "page_size", page_size=1001),
    list_monitors("page of 2^31 - 1 monitors", "page_size", page_size=2**31 - 1),
    list_monitors("unknown state 77", "states[0]", states=[77]),
    list_monitors("unspecified state", "states", states=[0]),
    list_monitors("100,000 states", "states", states=[1] * 100_000),
    list_monitors("token that is no base64", "page_token", page_token="%%%"),
    list_monitors("token of 100 KiB", "page_token", page_token="A" * 100_000),
    list_monitors("token of nested JSON", "page_token", page_token=encode(DEEP)),
    list_from("token of year 1, east of Greenwich", "0001-01-01T00:00:00+14:00", "a", ALL),
    list_from("token of year 9999, west of it", "9999-12-31T23:59:59-14:00", "a", ALL),
    list_from("token of a time without zone", "2026-01-01T00:00:00", "a", ALL),
    list_from("token with NUL in its id", "2026-01-01T00:00:00+00:00", "a\0", ALL),
    list_from("token of numbers", 1e400, 2, 3),
    list_from("token of another list", "2026-01-01T00:00:00+00:00", "a", "x"),
    observe("what is in order", "", [tensor(VECTOR)], "OK"),
    observe("largest and smallest numbers", "", [tensor([1e308, -1e308, 5e-324, 0.0])], "OK"),
    observe("3 channels", "4 channels", [tensor(VECTOR[:3])]),
    observe("65,536 channels", "4 channels", [tensor(np.zeros(65_536, np.float32))]),
    observe("a matrix", "4 channels", [tensor(VECTOR[:, None])]),
    observe("no channel", f"{FIRST}.layers[0]", [{"layer": "stages.3", "tensor": {"shape": [0], "data_type": 2}}]),
    observe("33 layers", f"{FIRST}.layers", [tensor(VECTOR, f"layer-{place}") for place in range(33)]),
    observe("the layer twice", f"{FIRST}.layers[1]", [tensor(VECTOR), tensor(VECTOR)]),
    observe("another layer alone", "`stages.3`, which raises the alarm", [tensor(VECTOR, "stages.2")]),
    observe("a layer without features", f"{FIRST}.layers[0]", [{"layer": "stages.3"}]),
    observe("no origin", "origin", [tensor(VECTOR)], origin={}),
    observe("other weights", "WRONG_ORIGIN", [tensor(VECTOR)], PRECONDITION, {"checkpoint_sha256": "1" * 64}),
    observe("other preprocessing", "WRONG_ORIGIN", [tensor(VECTOR)], PRECONDITION, {"preprocessing_sha256": "1" * 64}),
    observe("another transform", "WRONG_ORIGIN", [tensor(VECTOR)], PRECONDITION, {"input_transform": "halved"}),
    observe("stratum right to left", f"{FIRST}.study.strata", [tensor(VECTOR)], strata={"scanner": "\u202ea"}),
    observe("an empty stratum", f"{FIRST}.study.strata", [tensor(VECTOR)], strata={"scanner": ""}),
    stored("stored and in order", "", save({"stages.3": VECTOR}), "OK"),
    stored(
        "another digest of a stored layer",
        f"{FIRST}.layers[0].stored",
        save({"stages.3": VECTOR}),
        LOST,
        sha256="1" * 64,
    ),
    stored("a stored layer that is missing", f"{FIRST}.layers[0].stored", None, LOST),
    stored("a stored model", f"{FIRST}.layers[0].stored.uri", None, key="models/micro/card.json"),
    stored("a stored file of this machine", f"{FIRST}.layers[0].stored.uri", None, uri="file:///etc/passwd"),
    stored("stored text", "safetensors", b"no safetensors"),
    stored("a stored layer of another name", "safetensors", save({"stages.2": VECTOR})),
    stored("stored whole numbers", "real numbers", save({"stages.3": VECTOR.astype(np.int64)})),
    stored("a stored vector of 3 channels", "4 channels", save({"stages.3": VECTOR[:3]})),
    stored("a stored vector of 1 MiB", "the object has 1048656 bytes", save({"stages.3": np.zeros(2**18, np.float32)})),
)
