"""A service that reads studies as DICOM: its callers, its rules, and what it leaves behind."""

from __future__ import annotations

import json
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Any

from tests.integration.features.callers import ISSUER

from vfmalign.client import Client
from vfmalign.client.messages.common import ObjectRef
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.storage.store.object_store import ObjectStore

EVE, MALLORY = ISSUER.sign("researcher", sub="eve"), ISSUER.sign("researcher", sub="mallory")
ROUTER = ISSUER.sign("router", sub="modality-router")
RULES = "dicom-rules"
NAME = "Zauberberg^Walpurga"


def make_declaration() -> bytes:
    """Prostate mpMRI whose gland is found by the label of its segment."""
    content = get_declaration("prostate_mpmri").model_dump(mode="json")
    rules = resources.files("vfmalign.imaging.dicom.rules").joinpath("prostate_mpmri.json").read_text()
    selections = [item for item in json.loads(rules)["selections"] if item["name"] != "gland"]
    gland = {"name": "gland", "conditions": {"Modality": "SEG"}, "segments": {"1": {"label": "gland"}}}
    return json.dumps({**content, "selections": [*selections, gland]}).encode()


def open_client(service: Any, token: str = EVE) -> Client:
    return Client(features_address=service.address, token=token)


def get_stored(imported: DatasetManifest, store: ObjectStore) -> dict[str, ObjectRef]:
    (case,) = imported.test
    return {kind: ObjectRef.of(case.volumes[kind], store.uri) for kind in ("t2w", "dwi", "adc")}


def read_metrics(service: Any) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.ports['metrics']}/metrics", timeout=30) as response:
        return str(response.read().decode())


def list_scratch(folder: Path) -> list[str]:
    """Files of studies that the service has left."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
