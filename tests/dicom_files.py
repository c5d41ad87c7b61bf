"""DICOM files for tests: MR, CT and PET of three vendors, classic and enhanced, and segmentations, with any geometry.

`make_series` gives datasets that a test may change before `save` writes them; `write_series` does both. Geometry is an
affine to NIfTI's RAS axes, as of `Volume`, so that a phantom's volumes become examinations as they are.

Legend: X, Y, Z are columns, rows and slices; V is volumes of a series, one for each b-value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gdcm
import highdicom
import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from tests.dicom_headers import Examination, add_plane, add_private_b_value, add_standard_b_value, make_header

from vfmalign.imaging.phantoms.rendering import PhantomCase

AXES = {"transverse": ((1, 0, 0), (0, 1, 0)), "coronal": ((1, 0, 0), (0, 0, -1)), "sagittal": ((0, 1, 0), (0, 0, -1))}
"""Directions along rows and columns of each orientation, in DICOM's LPS axes."""
_ENCODED_BY_GDCM = {
    uid.JPEGBaseline8Bit: gdcm.TransferSyntax.JPEGBaselineProcess1,
    uid.JPEGExtended12Bit: gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    uid.JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    uid.JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


def make_affine(
    orientation: str = "transverse",
    spacing_mm: tuple[float, float, float] = (0.5, 0.75, 3.0),
    origin_mm: tuple[float, float, float] = (-60.0, -80.0, 40.0),
    tilt_degrees: float = 0.0,
) -> NDArray[np.float64]:
    """The affine of columns, rows and slices; a tilt shifts each slice along its columns."""
    rows, columns = np.array(AXES[orientation], float)
    normal = np.cross(rows, columns)
    step = normal * np.cos(np.radians(tilt_degrees)) + columns * np.sin(np.radians(tilt_degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([rows, columns, step], axis=1) * spacing_mm
    affine[:3, 3] = origin_mm
    affine[:2] *= -1
    return affine


def make_array(shape: tuple[int, ...] = (40, 34, 5), seed: int = 0) -> NDArray[np.uint16]:
    """Values of 12 bits, which differ along every axis. The encoder of JPEG 2000 takes 32 rows and columns or more."""
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)


def _to_volumes(array: NDArray[Any] | None, volumes: int) -> NDArray[Any]:
    """The array with its axis of volumes, which an array of one volume may lack."""
    array = make_array((40, 34, 5, volumes)) if array is None else array
    array_XYZV = array[..., None] if array.ndim == 3 else array
    assert array_XYZV.shape[3] == volumes, "the array has not one volume for each b-value"
    return array_XYZV


def make_series(
    array: NDArray[Any] | None = None,
    affine: NDArray[np.float64] | None = None,
    *,
    examination: Examination | None = None,
    vendor: str = "siemens",
    modality: str = "MR",
    number: int = 1,
    description: str = "t2_tse_tra",
    heights: Sequence[float] | None = None,
    b_values: Sequence[float | None] = (None,),
    directionality: str = "ISOTROPIC",
    rescale: tuple[float, float] | None = None,
    syntax: str = uid.ExplicitVRLittleEndian,
    attributes: Mapping[str, Any] | None = None,
    series_uid: str | None = None,
) -> list[Dataset]:
    """A classic series, one instance a slice and b-value, in order of b-value and slice.

    Args:
        array: stored values, integers of 8 or 16 bits: XYZ, or XYZV for several b-values.
        affine: of the array.
        examination: the study; a new one without.
        vendor: `siemens`, `siemens-csa` (older exports), `ge` or `philips`.
        modality: `MR`, `CT` or `PT`.
        number: of the series.
        description: of the series.
        heights: of each slice, in slices from the first: `[0, 1, 3]` misses one, `[0, 1, 1]` repeats one.
        b_values: in s/mm², of each volume, in the vendor's private attributes. None writes no diffusion.
        directionality: `ISOTROPIC`, `DIRECTIONAL` or `NONE`.
        rescale: slope and intercept; none is written without.
        syntax: transfer syntax.
        attributes: further ones by keyword, of every instance; a function is called with its number, from 0.
        series_uid: a new one without.
    """
    array_XYZV = _to_volumes(array, len(b_values))
    affine = make_affine() if affine is None else affine
    heights = range(array_XYZV.shape[2]) if heights is None else heights
    examination = examination or Examination()
    series_uid = series_uid or uid.generate_uid()
    datasets: list[Dataset] = []
    for volume, b_value in enumerate(b_values):
        for index, height in enumerate(heights):
            dataset = make_header(examination, vendor, modality, number, description, series_uid, enhanced=False)
            dataset.InstanceNumber = len(datasets) + 1
            add_plane(dataset, dataset, dataset, affine, height)
            if b_value is not None:
                dataset.ScanningSequence, dataset.EchoTime = "EP", "63"
                add_private_b_value(dataset, vendor, b_value, directionality)
            if rescale is not None:
                dataset.RescaleSlope, dataset.RescaleIntercept = rescale
            _add_pixels(dataset, array_XYZV[:, :, index : index + 1, volume])
            for keyword, value in (attributes or {}).items():
                setattr(dataset, keyword, value(len(datasets)) if callable(value) else value)
            _encode(dataset, syntax)
            datasets.append(dataset)
    return datasets


def make_enhanced(
    array: NDArray[Any] | None = None,
    affine: NDArray[np.float64] | None = None,
    *,
    examination: Examination | None = None,
    vendor: str = "philips",
    modality: str = "MR",
    number: int = 1,
    description: str = "t2_tse_tra",
    heights: Sequence[float] | None = None,
    b_values: Sequence[float | None] = (None,),
    directionality: str = "ISOTROPIC",
    rescales: Sequence[tuple[float, float]] | None = None,
    syntax: str = uid.ExplicitVRLittleEndian,
    attributes: Mapping[str, Any] | None = None,
) -> Dataset:
    """An enhanced multi-frame instance, whose frames stand in order of slice and b-value, so that volumes interleave.

    Args are those of `make_series`; `rescales` are slope and intercept of each volume, `attributes` of the instance.
    """
    array_XYZV = _to_volumes(array, len(b_values))
    affine = make_affine() if affine is None else affine
    heights = range(array_XYZV.shape[2]) if heights is None else heights
    series_uid = uid.generate_uid()
    dataset = make_header(
        examination or Examination(), vendor, modality, number, description, series_uid, enhanced=True
    )
    shared = Dataset()
    frames: list[Dataset] = []
    slices: list[NDArray[Any]] = []
    for index, height in enumerate(heights):
        for volume, b_value in enumerate(b_values):
            frame, content, position, measures, plane = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
            content.DimensionIndexValues = [index + 1, volume + 1]
            content.FrameAcquisitionNumber = 1
            add_plane(position, plane, measures, affine, height)
            frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
            shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
            if b_value is not None:
                diffusion = Dataset()
                add_standard_b_value(diffusion, b_value, directionality)
                frame.MRDiffusionSequence = [diffusion]
            transformation = Dataset()
            slope, intercept = rescales[volume] if rescales else (1.0, -1024.0 if modality == "CT" else 0.0)
            transformation.RescaleSlope, transformation.RescaleIntercept = slope, intercept
            transformation.RescaleType = "US"
            frame.PixelValueTransformationSequence = [transformation]
            frames.append(frame)
            slices.append(array_XYZV[:, :, index, volume])
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    _add_pixels(dataset, np.stack(slices, axis=2))
    dataset.NumberOfFrames = len(frames)
    for keyword, value in (attributes or {}).items():
        setattr(dataset, keyword, value)
    _encode(dataset, syntax)
    return dataset


def make_segmentation(
    source: Sequence[Dataset] | Dataset,
    masks_XYZ: Mapping[str, NDArray[np.bool_]],
    *,
    codes: Mapping[str, CodedConcept] | None = None,
    number: int = 100,
    kind: str = "BINARY",
    omit_empty_frames: bool = True,
    **options: Any,
) -> Dataset:
    """A segmentation by highdicom.

    Args:
        source: the classic instances of one volume in order of slice, or one enhanced instance.
        masks_XYZ: of each segment by its label; they may overlap unless `kind` is `LABELMAP`.
        codes: type of each segment; `SCT:85756007`, tissue, without.
        number: of the series.
        kind: `BINARY`, `LABELMAP` or `FRACTIONAL`.
        omit_empty_frames: leave out frames without a voxel, as most exports do.
        options: further arguments of `highdicom.seg.Segmentation`.
    """
    tissue = CodedConcept("85756007", "SCT", "Tissue")
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=index,
            segment_label=label,
            segmented_property_category=tissue,
            segmented_property_type=(codes or {}).get(label, tissue),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for index, label in enumerate(masks_XYZ, start=1)
    ]
    masks_ZYXS = np.stack([mask.transpose(2, 1, 0) for mask in masks_XYZ.values()], axis=-1).astype(np.uint8)
    if kind == "LABELMAP":
        masks_ZYXS = (masks_ZYXS * np.arange(1, len(masks_XYZ) + 1, dtype=np.uint8)).max(axis=-1)
    return highdicom.seg.Segmentation(
        source_images=[source] if isinstance(source, Dataset) else source,
        pixel_array=masks_ZYXS,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=uid.generate_uid(),
        series_number=number,
        sop_instance_uid=uid.generate_uid(),
        instance_number=1,
        manufacturer="vfmalign",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=omit_empty_frames,
        **options,
    )


def save(datasets: Sequence[Dataset] | Dataset, folder: Path, prefix: str = "IM") -> list[Path]:
    """Writes each dataset to a file of the folder, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for index, dataset in enumerate([datasets] if isinstance(datasets, Dataset) else datasets):
        paths.append(folder / f"{prefix}{index:05}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_series(folder: Path, *args: Any, **options: Any) -> list[Path]:
    """Writes what `make_series` makes."""
    return save(make_series(*args, **options), folder)


def write_enhanced(folder: Path, *args: Any, **options: Any) -> list[Path]:
    """Writes what `make_enhanced` makes."""
    return save(make_enhanced(*args, **options), folder)


def write_segmentation(folder: Path, *args: Any, **options: Any) -> list[Path]:
    """Writes what `make_segmentation` makes."""
    return save(make_segmentation(*args, **options), folder, prefix="SEG")


def write_prostate(
    folder: Path, case: PhantomCase, *, vendor: str = "siemens", enhanced: bool = False, **options: Any
) -> Examination:
    """Writes a phantom's prostate mpMRI: two T2w, DWI with two b-values, ADC, and a segmentation of gland and lesions.

    Args:
        folder: gets a folder for each series.
        case: the phantom. Its lesion of grade k is the segment `lesion k`.
        vendor: as of `make_series`.
        enhanced: one multi-frame instance for each series rather than classic ones.
        options: fields of the `Examination`.
    """
    examination = Examination(**options)
    stored = {kind: np.rint(case.volumes[kind].array_XYZ).astype(np.uint16) for kind in ("t2w", "dwi", "adc")}
    dwi = np.stack([3 * stored["dwi"], stored["dwi"]], axis=3)  # weaker weighting leaves a brighter image
    make = make_enhanced if enhanced else make_series

    def write(number: int, description: str, array: NDArray[Any], affine: NDArray[np.float64], **more: Any) -> Any:
        options = {"examination": examination, "vendor": vendor, "number": number, "description": description}
        datasets = make(array, affine, **options, **more)
        save(datasets, folder / f"{number:03}")
        return datasets

    adc = ["DERIVED", "PRIMARY", "ADC" if enhanced else "DIFFUSION", "ADC"]
    sagittal = make_affine("sagittal", (0.6, 0.6, 3.0))
    write(3, "t2_tse_sag", make_array((64, 64, 9)), sagittal)
    t2w = write(4, "t2_tse_tra", stored["t2w"], case.volumes["t2w"].affine)
    write(6, "ep2d_diff_tra", dwi, case.volumes["dwi"].affine, b_values=(50, 800))
    write(7, "ep2d_diff_tra_ADC", stored["adc"], case.volumes["adc"].affine, attributes={"ImageType": adc})
    grades = case.volumes["lesions"].array_XYZ
    masks = {"gland": case.volumes["gland"].array_XYZ > 0}
    masks |= {f"lesion {grade:g}": grades == grade for grade in np.unique(grades[grades > 0])}
    codes = {"gland": CodedConcept("41216001", "SCT", "Prostate")}
    write_segmentation(folder / "100", t2w, masks, codes=codes)
    return examination


def _add_pixels(dataset: Dataset, array_XYZ: NDArray[Any]) -> None:
    assert array_XYZ.dtype in (np.uint8, np.int16, np.uint16)
    bits = 8 * array_XYZ.dtype.itemsize
    stored = bits if array_XYZ.min() < 0 or array_XYZ.max() >= 4096 or bits == 8 else 12
    dataset.Columns, dataset.Rows = array_XYZ.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, stored, stored - 1
    dataset.PixelRepresentation = int(array_XYZ.dtype.kind == "i")
    dataset.add_new(
        "PixelData", "OB" if bits == 8 else "OW", np.ascontiguousarray(array_XYZ.transpose(2, 1, 0)).tobytes()
    )


def _encode(dataset: Dataset, syntax: str) -> None:
    """Encodes the pixels, which are uncompressed and little-endian, and states the transfer syntax."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    syntax = uid.UID(syntax)
    if syntax == uid.ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    if syntax in _ENCODED_BY_GDCM:
        _encode_with_gdcm(dataset, _ENCODED_BY_GDCM[syntax])
    elif syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        options = {"j2k_cr": [2.0]} if syntax == uid.JPEG2000 else {}
        options |= {"jls_error": 2} if syntax == uid.JPEGLSNearLossless else {}
        dataset.compress(syntax, generate_instance_uid=False, **options)
    dataset.file_meta.TransferSyntaxUID = syntax


def _encode_with_gdcm(dataset: Dataset, syntax: int) -> None:
    """Encodes the pixels as JPEG, which pydicom does not write."""
    with TemporaryDirectory() as folder:
        plain, encoded = f"{folder}/plain.dcm", f"{folder}/encoded.dcm"
        dataset.save_as(plain, enforce_file_format=True)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(plain)
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change(), "gdcm cannot encode the image"
        writer.SetFileName(encoded)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        dataset.PixelData = dcmread(encoded).PixelData
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
