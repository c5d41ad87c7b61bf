"""Extract of studies as DICOM: in the message, uploaded, and at a PACS, from a real service."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from tests.identities import find_marks
from tests.integration.features.conftest import Server
from tests.integration.features.dicom_service import (
    MALLORY,
    ROUTER,
    RULES,
    get_stored,
    list_scratch,
    make_declaration,
    open_client,
    read_metrics,
)
from tests.orthanc import Orthanc

from vfmalign.client import PacsReference, features
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import (
    BadVolume,
    Forbidden,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    VfmalignError,
)
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.models.cards import load_encoder, publish


@pytest.fixture(scope="module")
def archive(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number, member in enumerate(sorted(study.rglob("*.dcm"))):
            file.write(member, f"{number}.dcm")
    return path


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's folder for files of studies."""
    return tmp_path_factory.mktemp("scratch") / "dicom"


@pytest.fixture(scope="module")
def service(
    store: ObjectStore,
    card: Any,
    imported: DatasetManifest,
    temporary: Path,
    store_environment: dict[str, str],
    caller_settings: dict[str, str],
    python: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    settings = {"VFMALIGN_FEATURES__DICOM_FOLDER": str(temporary), **caller_settings}
    running = Server(python, store_environment, tmp_path_factory.mktemp("service"), **settings)
    yield running
    assert running.end() == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


def test_a_study_has_the_features_of_its_import_however_it_arrives(
    service: Server, imported: DatasetManifest, store: ObjectStore, study: Path, archive: Path, marks: set[str],
    temporary: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert imported.selections
    with open_client(service) as client:
        expected = client.features.extract("micro", get_stored(imported, store)).layers
        answer = client.features.extract("micro", dicom=study, rules_dataset_id=RULES)
        uploaded = client.features.extract("micro", dicom=archive, rules_dataset_id=RULES).layers
    (layer,), inline = expected, answer.layers
    assert {taken.modality for taken in answer.series} == {"t2w", "dwi", "adc"}
    assert answer.series == imported.train[0].series
    np.testing.assert_array_equal(inline[layer], expected[layer])
    np.testing.assert_array_equal(uploaded[layer], expected[layer])
    monkeypatch.setattr(features, "_MAX_INLINE_BYTES", 2**16)  # the client uploads what is larger
    with open_client(service) as client:
        packed = client.features.extract("micro", dicom=study, rules_dataset_id=RULES)
    assert "download" in {timing.stage for timing in packed.cost.stages}
    np.testing.assert_array_equal(packed.layers[layer], expected[layer])
    assert list_scratch(temporary) == []
    assert not find_marks(service.log.read_bytes() + read_metrics(service).encode(), marks)


def test_a_study_at_a_pacs_has_the_features_of_its_import(
    orthanc: Orthanc, imported: DatasetManifest, store: ObjectStore, study: Path, marks: set[str], start_server: Any,
    caller_settings: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    service = start_server(
        **caller_settings,
        **orthanc.to_environment("main"),
        VFMALIGN_FEATURES__DICOM_FOLDER=str(tmp_path / "dicom"),
    )
    header = dcmread(next(study.rglob("*.dcm")), stop_before_pixels=True)
    reference = PacsReference(server="main", study_uid=header.StudyInstanceUID)
    with open_client(service) as client:
        expected = client.features.extract("micro", get_stored(imported, store)).layers
    with open_client(service, ROUTER) as client:
        answer = client.features.extract("micro", dicom=reference, rules_dataset_id=RULES)
        (layer,) = expected
        np.testing.assert_array_equal(answer.layers[layer], expected[layer])
        assert [timing.stage for timing in answer.cost.stages][:3] == ["load_model", "search", "download"]
        named = reference.model_copy(update={"series_uids": tuple(list_series(study))})
        again = client.features.extract("micro", dicom=named, rules_dataset_id=RULES).layers
        np.testing.assert_array_equal(again[layer], expected[layer])
        with pytest.raises(NotFound) as missing:
            client.features.extract(
                "micro", dicom=reference.model_copy(update={"study_uid": "1.2.3"}), rules_dataset_id=RULES
            )
        assert (missing.value.reason, bool(missing.value.remedy)) == ("STUDY_NOT_FOUND", True)
        with pytest.raises(InvalidInput, match="the service has no PACS named 'other'") as unknown:
            client.features.extract(
                "micro", dicom=reference.model_copy(update={"server": "other"}), rules_dataset_id=RULES
            )
        assert (unknown.value.field, unknown.value.reason) == ("study.dicom.reference.server", "UNKNOWN_PACS")
    metrics = read_metrics(service)
    assert 'vfmalign_pacs_call_seconds_count{operation="download",server="main"} 2.0' in metrics
    assert 'vfmalign_pacs_failures_total{operation="search",reason="STUDY_NOT_FOUND",server="main"} 1.0' in metrics
    size = sum(path.stat().st_size for path in study.rglob("*.dcm"))
    (received,) = (line for line in metrics.splitlines() if line.startswith("vfmalign_pacs_received_bytes_total{"))
    assert float(received.rpartition(" ")[2]) >= size  # with the boundaries of two downloads
    assert list_scratch(tmp_path / "dicom") == []
    assert '"event": "study_downloaded"' in service.log.read_text()
    assert not find_marks(service.log.read_bytes() + metrics.encode(), marks)
    assert orthanc.password_file.read_text() not in service.log.read_text()


def list_series(study: Path) -> set[str]:
    return {str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID) for path in study.rglob("*.dcm")}


def test_an_upload_belongs_to_its_caller(service: Server, archive: Path, store: ObjectStore) -> None:
    with open_client(service) as eve, open_client(service, MALLORY) as mallory:
        ref = eve.features.upload_study(archive.read_bytes())
        eve.features.extract("micro", dicom=ref, rules_dataset_id=RULES)
        with pytest.raises(InvalidInput) as denied:
            mallory.features.extract("micro", dicom=ref, rules_dataset_id=RULES)
        assert denied.value.field == "study.dicom.uploaded.uri"
        store.delete(store.key(ref.uri))
        with pytest.raises(PreconditionFailed, match="not uploaded, or its upload has expired") as missing:
            eve.features.extract("micro", dicom=ref, rules_dataset_id=RULES)
        assert missing.value.reason == "UPLOAD_MISSING"
        store.put(store.key(ref.uri), bytes(ref.size_bytes))  # of the same size, as after damage on the way
        other = ref.model_copy(update={"sha256": "0" * 64})
        for named in (other, ref):
            assert store.exists(store.key(ref.uri)), "another digest than that of the upload deletes nothing"
            with pytest.raises(PreconditionFailed, match="does not match the announced digest"):
                eve.features.extract("micro", dicom=named, rules_dataset_id=RULES)
        assert eve.features.upload_study(archive.read_bytes()) == ref
        eve.features.extract("micro", dicom=ref, rules_dataset_id=RULES)


def test_a_router_may_extract_by_reference_alone(service: Server, study: Path) -> None:
    with open_client(service, ROUTER) as client:
        reference = PacsReference(server="other", study_uid="1.2.3")
        with pytest.raises(InvalidInput, match="has no PACS named"):  # it passes the check of roles
            client.features.extract("micro", dicom=reference, rules_dataset_id=RULES)
        forbidden = (
            lambda: client.features.extract("micro", dicom=study, rules_dataset_id=RULES),
            lambda: client.features.extract("micro", {"t2w": b""}),
            lambda: client.features.extract(
                "micro", dicom=reference, rules_dataset_id=RULES, store_as="kept", store_group="g"
            ),
            lambda: client.features.upload_study(b"zip"),
            lambda: client.features.get_model("micro"),
        )
        for call in forbidden:
            with pytest.raises(Forbidden) as caught:
                call()
            assert caught.value.reason == "MISSING_ROLE"


def test_the_rules_come_from_a_dataset_or_the_card(
    service: Server, study: Path, imported: DatasetManifest, dataset: DatasetManifest, store: ObjectStore, card: Any
) -> None:
    rules = parse_declaration(make_declaration()).to_text()
    state = dict(load_encoder(store, "micro")[0].state_dict().items())
    with_rules = publish(
        store,
        "with-rules",
        state,
        architecture="profound_conv_micro",
        objective="contrastive",
        preprocessing=card.preprocessing,
        declaration=rules,
    )
    assert with_rules.checkpoint.sha256 == card.checkpoint.sha256
    with open_client(service) as client:
        (expected,) = client.features.extract("micro", dicom=study, rules_dataset_id=RULES).layers.values()
        (from_card,) = client.features.extract("with-rules", dicom=study).layers.values()
        np.testing.assert_array_equal(from_card, expected)
        assert client.features.get_model("with-rules").has_dicom_rules
        assert client.features.get_dataset(RULES).has_dicom_rules
        with pytest.raises(VfmalignError, match="neither the request nor the card of micro") as neither:
            client.features.extract("micro", dicom=study)
        assert neither.value.reason == "NO_DICOM_RULES"
        assert "rules_dataset_id" in neither.value.remedy
        assert "--declaration" in neither.value.remedy
        with pytest.raises(PreconditionFailed, match="not imported from DICOM") as without:
            client.features.extract("micro", dicom=study, rules_dataset_id=dataset.id)
        assert without.value.reason == "NO_DICOM_RULES"
        with pytest.raises(NotFound, match="dataset none"):
            client.features.extract("micro", dicom=study, rules_dataset_id="none")
        with pytest.raises(InvalidInput, match="both as DICOM and as volumes"):
            client.features.extract("micro", {"t2w": b"x"}, dicom=study, rules_dataset_id=RULES)


def test_what_cannot_be_read_is_refused_with_the_field_and_a_remedy(
    service: Server, study: Path, tmp_path: Path, marks: set[str], imported: DatasetManifest
) -> None:
    files = sorted(study.rglob("*.dcm"))
    headers = {path: dcmread(path, stop_before_pixels=True) for path in files}
    t2w = [path for path in files if "t2" in str(headers[path].get("SeriesDescription", "")).lower()]
    refused = {
        "nothing meets the selection of t2w": [path for path in files if path not in t2w],
        "slice": [path for path in files if path != sorted(t2w, key=lambda p: headers[p].InstanceNumber)[3]],
        "expected the images of one study, got 0": [],
    }
    with open_client(service) as client:
        for number, (message, members) in enumerate(refused.items()):
            folder = tmp_path / str(number)
            folder.mkdir()
            for place, path in enumerate(members):
                (folder / f"{place}.dcm").write_bytes(path.read_bytes())
            (folder / "notes.txt").write_text("not DICOM")
            with pytest.raises(BadVolume, match=message) as caught:
                client.features.extract("micro", dicom=folder, rules_dataset_id=RULES)
            assert caught.value.field == "study.dicom"
            assert caught.value.remedy
            assert not find_marks(str(caught.value).encode(), marks)
        (tmp_path / "no.zip").write_bytes(b"PK no zip")
        with pytest.raises(InvalidInput, match="not a zip") as caught_zip:
            client.features.extract("micro", dicom=tmp_path / "no.zip", rules_dataset_id=RULES)
        assert caught_zip.value.field == "study.dicom"
