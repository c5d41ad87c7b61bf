"""Rows for studies as DICOM: hostile files in the message and in uploads, and references that lead elsewhere."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import Message
from pydicom import Dataset
from tests.dicom_files import make_array, make_series
from tests.hostile.heavy_headers import FILES as HEAVY
from tests.hostile.row import Inputs, Row
from tests.hostile.test_dicom import BYTES
from tests.hostile.test_dicom import ROWS as FILES
from tests.hostile.token_rows import ISSUER

from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import study_upload_prefix
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.uploads import digest_caller
from vfmalign.imaging.dicom.rules import Selection, encode_selections
from vfmalign.v1 import common_pb2
from vfmalign.v1 import features_pb2 as pb

EXTRACT = "FeatureService/Extract"
INVALID, FAILED = "INVALID_ARGUMENT", "FAILED_PRECONDITION"
RULES, NO_RULES, DAMAGED = "dicom-rules", "phantoms", "damaged-rules"
ROUTER = (f"Bearer {ISSUER.sign('router', sub='router')}",)
OWNER_PREFIX = study_upload_prefix(digest_caller(f"{ISSUER.issuer}#owner"))
OTHERS_PREFIX = study_upload_prefix(digest_caller(f"{ISSUER.issuer}#eve"))
ZEROS = "0" * 64
STUDY_BYTES = 64 * 2**20
"""The services' limit on a study (`VFMALIGN_FEATURES__DICOM_STUDY_BYTES`)."""


def store_rules(store: ObjectStore) -> None:
    """Stores datasets whose rules take any MR series for each input of the model, or are damaged."""
    selections = [
        Selection.model_validate({"name": name, "conditions": {"Modality": "MR"}}) for name in ("t2w", "dwi", "adc")
    ]
    save_dataset(store, DatasetManifest(id=RULES, selections=encode_selections(selections)))
    save_dataset(store, DatasetManifest(id=DAMAGED, selections='[{"name": "t2w"'))


def request(dicom: pb.DicomStudy, **fields: Any) -> pb.ExtractRequest:
    """A request of Extract for a study as DICOM."""
    dicom.rules_dataset_id = dicom.rules_dataset_id or RULES
    return pb.ExtractRequest(**{"model_id": "micro", "study": pb.Study(dicom=dicom), **fields})


def inline(name: str, names: str, make: Callable[[], Sequence[bytes]], code: str = INVALID, **fields: Any) -> Row:
    """A study in the message."""

    def build(inputs: Inputs) -> Message:
        with warnings.catch_warnings(action="ignore"):  # values that no standard allows
            instances = make()
        return request(pb.DicomStudy(instances=pb.InlineInstances(instances=instances), **fields))

    return Row(f"DICOM: {name}", EXTRACT, build, code, names)


def reference(name: str, names: str, code: str = INVALID, **fields: Any) -> Row:
    """A study at a PACS."""
    content = {"server": "main", "study_uid": "1.2.3", **fields}
    return Row(
        f"DICOM: {name}", EXTRACT, lambda _: request(pb.DicomStudy(reference=pb.PacsReference(**content))), code, names
    )


def uploaded(
    name: str,
    names: str,
    make: Callable[[], bytes] | None,
    code: str = INVALID,
    *,
    prefix: str = OWNER_PREFIX,
    **ref: Any,
) -> Row:
    """A study that was uploaded."""

    def build(inputs: Inputs) -> Message:
        data = b"" if make is None else make()
        sha256 = hashlib.sha256(data).hexdigest()
        if make is not None:
            inputs.store.put(prefix + sha256, data)
        content = {"uri": inputs.store.uri(prefix + sha256), "sha256": sha256, **ref}
        return request(pb.DicomStudy(uploaded=common_pb2.ObjectRef(**content)))

    return Row(f"DICOM: {name}", EXTRACT, build, code, names)


def to_bytes(datasets: Sequence[Dataset] | Dataset) -> list[bytes]:
    """The files of instances."""
    files = []
    for dataset in [datasets] if isinstance(datasets, Dataset) else datasets:
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        files.append(file.getvalue())
    return files


@cache
def make_files() -> list[bytes]:
    """A valid series."""
    return to_bytes(make_series(make_array((40, 34, 3))))


def replace_bytes(old: bytes, new: bytes) -> list[bytes]:
    """A series whose files are damaged."""
    files = to_bytes(make_series(make_array((40, 34, 2)), rescale=("1234567890", "0")))  # type: ignore[arg-type]
    return [file.replace(old, new) for file in files]


def make_zip(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of some members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def make_large_directory() -> bytes:
    """A zip that states a list of members of 3 GiB, as a list of 32 MiB: nothing of it is kept in memory."""
    size = 32 * 2**20
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65_535, 65_535, size, 0, 0)
    return bytes(size) + end


def forge_sizes() -> bytes:
    """A zip whose list of members states other sizes than they have."""
    data = make_zip({f"{number}.dcm": content for number, content in enumerate(make_files())})
    start = data.index(b"PK\x01\x02")
    return data[: start + 24] + struct.pack("<I", 300) + data[start + 28 :]


VALID = {f"{number}.dcm": content for number, content in enumerate(make_files())}
ROWS = (
    *(inline(name, "study.dicom", lambda make=make: to_bytes(make())) for name, make in FILES.items()),  # type: ignore[misc]
    *(inline(name, "study.dicom", lambda pair=pair: replace_bytes(*pair)) for name, pair in BYTES.items()),  # type: ignore[misc]
    *(inline(name, "study.dicom", lambda make=make: [make()]) for name, make in HEAVY.items()),  # type: ignore[misc]
    inline("one slice", "study.dicom", lambda: make_files()[:1]),
    inline("files that end early", "study.dicom", lambda: [file[:-200] for file in make_files()]),
    inline("files that end in their header", "study.dicom", lambda: [file[:500] for file in make_files()]),
    inline("files without content", "study.dicom", lambda: [b""] * 20_000),
    inline("100,000 tiny files", "study.dicom.instances.instances", lambda: [b"x"] * 100_000),
    inline("no files", "study.dicom.instances.instances", list),
    inline("5,000 copies of a header", "study.dicom", lambda: [make_files()[0][:900]] * 5_000),
    inline("files of two studies", "one study, got 2", lambda: [*make_files(), *to_bytes(make_series())]),
    inline("rules of no dataset", "dataset none", make_files, "NOT_FOUND", rules_dataset_id="none"),
    inline("rules of a dataset of NIfTI", "NO_DICOM_RULES", make_files, FAILED, rules_dataset_id=NO_RULES),
    inline("rules that are damaged", f"dataset {DAMAGED}", make_files, FAILED, rules_dataset_id=DAMAGED),
    inline("rules of a dataset with a path", "study.dicom.rules_dataset_id", make_files, rules_dataset_id="../x"),
    Row("DICOM: no source", EXTRACT, lambda _: request(pb.DicomStudy()), INVALID, "study.dicom"),
    Row(
        "DICOM: with volumes",
        EXTRACT,
        lambda _: pb.ExtractRequest(
            model_id="micro",
            study=pb.Study(dicom=pb.DicomStudy(), volumes=[pb.StudyVolume(modality="t2w", nifti=b"x")]),
        ),
        INVALID,
        "study",
    ),
    reference("a PACS that is not configured", "study.dicom.reference.server"),
    reference("an address for a PACS", "study.dicom.reference.server", server="https://evil.example/"),
    reference("a PACS with NUL", "study.dicom.reference.server", server="main\0"),
    reference("no PACS", "study.dicom.reference.server", server=""),
    reference("a path for a study", "study.dicom.reference.study_uid", study_uid="1.2/../../patients"),
    reference("a study of 1 MiB", "study.dicom.reference.study_uid", study_uid="1" * 2**20),
    reference("a query for a study", "study.dicom.reference.study_uid", study_uid="1.2?limit=1"),
    reference("no study", "study.dicom.reference.study_uid", study_uid=""),
    reference("a name for a series", "study.dicom.reference.series_uids", series_uids=["Zauberberg^Walpurga"]),
    reference("one million series", "study.dicom.reference.series_uids", series_uids=["1"] * 1_000_000),
    uploaded("an upload that is not there", "UPLOAD_MISSING", None, FAILED),
    uploaded("the upload of somebody else", "uploaded.uri", lambda: make_zip(VALID), prefix=OTHERS_PREFIX),
    uploaded("an upload that climbs", "uploaded.uri", None, uri="s3://BUCKET/incoming/studies/../x"),
    uploaded("an upload with another digest", "uploaded", lambda: make_zip(VALID), FAILED, sha256=ZEROS),
    uploaded("text for a zip", "not a zip", lambda: b"text"),
    uploaded("a zip that is cut off", "not a zip", lambda: make_zip(VALID)[:-100]),
    uploaded(
        "an upload of 65 MiB", "VFMALIGN_FEATURES__DICOM_STUDY_BYTES", lambda: bytes(65 * 2**20), "RESOURCE_EXHAUSTED"
    ),
    uploaded(
        "a bomb",
        "VFMALIGN_FEATURES__DICOM_STUDY_BYTES",
        lambda: make_zip({"a.dcm": bytes(2**26), "b.dcm": bytes(2**26)}),
        "RESOURCE_EXHAUSTED",
    ),
    uploaded("a bomb in a bomb", "one study, got 0", lambda: make_zip({"a.zip": make_zip({"b.dcm": bytes(2**26)})})),
    uploaded(
        "a zip of 30,000 files",
        "more than 20,000 files",
        lambda: make_zip(dict.fromkeys(map(str, range(30_000)), b"x")),
    ),
    uploaded("a list of members of 32 MiB", "more than 20,000 files", make_large_directory),
    uploaded("sizes that lie", "study.dicom", forge_sizes),
    uploaded("members that climb", "`..`", lambda: make_zip({"../../etc/x.dcm": b"x"})),
    uploaded("an unusual compression", "another method than Deflate", lambda: make_zip(VALID, zipfile.ZIP_LZMA)),
    Row(
        "DICOM: a router that sends files",
        EXTRACT,
        lambda _: request(pb.DicomStudy(instances=pb.InlineInstances(instances=make_files()))),
        "PERMISSION_DENIED",
        "MISSING_ROLE",
        (),
        ROUTER,
    ),
    Row(
        "DICOM: a router that stores features",
        EXTRACT,
        lambda _: request(
            pb.DicomStudy(reference=pb.PacsReference(server="main", study_uid="1.2")), store_as="mine", store_group="g"
        ),
        "PERMISSION_DENIED",
        "MISSING_ROLE",
        (),
        ROUTER,
    ),
    *(
        Row(
            f"DICOM: announced upload of {size:,} bytes",
            "FeatureService/CreateStudyUpload",
            lambda _, size=size: pb.CreateStudyUploadRequest(file={"sha256": ZEROS, "size_bytes": size}),  # type: ignore[misc]
            code,
            names,
        )
        for size, code, names in (
            (0, INVALID, "file.size_bytes"),
            (2**40, INVALID, "file.size_bytes"),
            (2**32, "RESOURCE_EXHAUSTED", "VFMALIGN_FEATURES__DICOM_STUDY_BYTES"),
        )
    ),
)
