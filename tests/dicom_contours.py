"""Structure sets (RTSTRUCT) for tests: contours, files that hold them, and the label maps that they become.

Contours are given in voxels of an image, as its columns, rows and slices, and written in mm.

Legend: P is points of a contour.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from tests.dicom_files import save

from vfmalign.imaging.dicom.frames import list_frames
from vfmalign.imaging.dicom.instances import read_header
from vfmalign.imaging.dicom.labels.label_maps import read_label_map, read_segmentation
from vfmalign.imaging.dicom.stacks import Stack, divide
from vfmalign.imaging.volumes import Volume

STRUCTURE_SET = uid.RTStructureSetStorage
Contour = NDArray[np.float64]
"""(P, 3), column, row and slice of each point; the last is joined to the first."""


def to_contour(vertices: Sequence[Sequence[float]] | NDArray[Any], z: float) -> Contour:
    """A contour of a slice from columns and rows."""
    return np.column_stack([np.asarray(vertices, float), np.full(len(vertices), float(z))])


def draw_circle(
    centre_mm: Sequence[float], radius_mm: float, affine: NDArray[Any], z: int, points: int = 720
) -> Contour:
    """The contour of a circle in a slice, in voxels.

    Args:
        centre_mm: along columns, rows and slices of the image, from its first voxel.
        radius_mm: of the circle.
        affine: of the image.
        z: number of the slice.
        points: of the polygon.
    """
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False) + 0.1234
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[:2]
    circle_mm = np.asarray(centre_mm[:2]) + radius_mm * np.column_stack([np.cos(angles), np.sin(angles)])
    return to_contour(circle_mm / spacing_mm, z)


def make_structure_set(
    source: Sequence[Dataset] | Dataset,
    regions: Mapping[str, Sequence[Contour]],
    affine: NDArray[np.float64],
    *,
    codes: Mapping[str, CodedConcept] | None = None,
    kind: str = "CLOSED_PLANAR",
    number: int = 101,
    names_images: bool = True,
    change: Callable[[Dataset], object] = lambda dataset: None,
    syntax: str = uid.ExplicitVRLittleEndian,
) -> Dataset:
    """A structure set as planning systems write it.

    Args:
        source: the classic instances of one volume, or one enhanced instance.
        regions: contours of each region by its name.
        affine: of the image, from voxels to RAS axes.
        codes: what each region is.
        kind: ContourGeometricType.
        number: of the series.
        names_images: whether each contour names the image that it was drawn on.
        change: called with the dataset before it is returned.
        syntax: transfer syntax.
    """
    images = [source] if isinstance(source, Dataset) else list(source)
    dataset = _make_header(images[0], number, syntax)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    places = _list_places(images, np.linalg.inv(to_lps))
    for region, (name, contours) in enumerate(regions.items(), start=1):
        described, observed, drawn = Dataset(), Dataset(), Dataset()
        described.ROINumber, described.ROIName = region, name
        described.ReferencedFrameOfReferenceUID = images[0].FrameOfReferenceUID
        observed.ObservationNumber, observed.ReferencedROINumber, observed.RTROIInterpretedType = (
            region,
            region,
            "ORGAN",
        )
        observed.ROIInterpreter = "Settembrini^Lodovico"
        if code := (codes or {}).get(name):
            observed.RTROIIdentificationCodeSequence = [code]
        drawn.ReferencedROINumber = region
        drawn.ContourSequence = [_make_contour(item, to_lps, kind, places if names_images else {}) for item in contours]
        dataset.StructureSetROISequence.append(described)
        dataset.RTROIObservationsSequence.append(observed)
        dataset.ROIContourSequence.append(drawn)
    change(dataset)
    return dataset


def write_structure_set(folder: Path, *args: Any, **options: Any) -> list[Path]:
    """Writes what `make_structure_set` makes."""
    return save(make_structure_set(*args, **options), folder, prefix="RS")


def _make_header(image: Dataset, number: int, syntax: str) -> Dataset:
    dataset = Dataset()
    for keyword in ("SpecificCharacterSet", "StudyInstanceUID", "PatientName", "PatientID", "IssuerOfPatientID",
                    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
                    "ReferringPhysicianName"):  # fmt: skip
        setattr(dataset, keyword, image[keyword].value)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = (
        STRUCTURE_SET, uid.generate_uid(), uid.generate_uid()
    )  # fmt: skip
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "RTSTRUCT", number, "structures"
    dataset.Manufacturer, dataset.StructureSetLabel = "vfmalign", "plan"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = image.StudyInstanceUID, [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = image.FrameOfReferenceUID, [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.RTROIObservationsSequence, dataset.ROIContourSequence = [], [], []
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return dataset


def _list_places(images: Sequence[Dataset], to_index: NDArray[np.float64]) -> dict[int, Dataset]:
    """A reference to each image by its slice."""
    places: dict[int, Dataset] = {}
    for image in images:
        frames = image.get("PerFrameFunctionalGroupsSequence")
        planes = [image] if frames is None else [frame.PlanePositionSequence[0] for frame in frames]
        for index, plane in enumerate(planes, start=1):
            z = round((to_index @ [*map(float, plane.ImagePositionPatient), 1])[2])
            places[z] = Dataset()
            places[z].ReferencedSOPClassUID = image.SOPClassUID
            places[z].ReferencedSOPInstanceUID = image.SOPInstanceUID
            if frames is not None:
                places[z].ReferencedFrameNumber = index
    return places


def _make_contour(contour: Contour, to_lps: NDArray[np.float64], kind: str, places: Mapping[int, Dataset]) -> Dataset:
    item = Dataset()
    points_mm = contour @ to_lps[:3, :3].T + to_lps[:3, 3]
    item.ContourGeometricType, item.NumberOfContourPoints = kind, len(contour)
    item.ContourData = [f"{number + 0.0:.10f}"[:16] for number in np.round(points_mm, 10).ravel()]
    if len(contour) and round(contour[0, 2]) in places:
        item.ContourImageSequence = [places[round(contour[0, 2])]]
    return item


class MemorySource:
    """Files in memory."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents

    def open(self, name: str) -> io.BytesIO:
        """A file."""
        return io.BytesIO(self.contents[name])


def to_bytes(dataset: Dataset) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def to_stack(image: Sequence[Dataset]) -> Stack:
    """The volume of an image, whose files are `image-0` and so on."""
    (stack,) = divide([frame for index, item in enumerate(image) for frame in list_frames(item, f"image-{index}")])
    assert stack.problem == ""
    return stack


def read_drawn(content: bytes | Dataset, image: Sequence[Dataset], values: Mapping[int, int] | None = None) -> Volume:
    """Reads regions as one label map; the first one without values."""
    return read_file(to_bytes(content) if isinstance(content, Dataset) else content, to_stack(image), values or {1: 1})


def read_file(content: bytes, stack: Stack, values: Mapping[int, int]) -> Volume:
    """Reads regions of the structure set in a file."""
    source = MemorySource({"rs": content})
    with source.open("rs") as stream:
        segmentation = read_segmentation(read_header(stream).dataset, "rs", "series 101")
    return read_label_map(source, segmentation, stack, values, "c-1/gland")  # type: ignore[arg-type]
