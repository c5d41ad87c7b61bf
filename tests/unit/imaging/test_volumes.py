"""Decoding and encoding of NIfTI: invalid input is rejected with its reason, and no header text is passed on."""

import gzip
import io
import logging
import subprocess
import sys
import types
import zlib

import nibabel as nib
import numpy as np
import pytest

from vfmalign.core.domain.errors import BadVolume, Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.imaging import decompression, volumes
from vfmalign.imaging.volumes import Volume, check_encoding, decode, decode_channels, encode

NAME = "study.volumes[0]"
PATIENT = "SURNAME^GIVEN_1234567"


def refusal(data, kind="t2w", **options):
    with pytest.raises(BadVolume) as caught:
        decode(data, NAME, kind, **options)
    error = caught.value
    assert error.reason == "BAD_VOLUME"
    assert error.field == NAME
    assert str(error).startswith(f"{NAME}: ")
    return str(error)


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_decodes_what_nibabel_wrote(nifti, gz, dtype):
    array = (np.arange(4 * 5 * 6) % 200).reshape(4, 5, 6).astype(dtype)
    affine = np.array([[-0.5, 0, 0, 44], [0, -0.47, -1.09, 47], [0, -0.18, 2.79, 42], [0, 0, 0, 1]])
    volume = decode(nifti(array, affine, gz=gz), NAME, "t2w")
    assert volume.array_XYZ.dtype == {"int32": np.uint8, "float64": np.float32}.get(np.dtype(dtype).name, dtype)
    np.testing.assert_array_equal(volume.array_XYZ, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, np.hypot(0.47, 0.18), np.hypot(1.09, 2.79)), rtol=1e-6)


def test_decodes_nifti2_big_endian_scaled_and_trailing_singleton_axes(nifti):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for data in (
        nifti(array, image_class=nib.Nifti2Image),
        nifti(array[..., None, None]),
        nib.Nifti1Image(array, np.eye(4), nib.Nifti1Header(endianness=">")).to_bytes(),
    ):
        np.testing.assert_array_equal(decode(data, NAME, "adc").array_XYZ, array)
    scaled = decode(nifti(array, scl_slope=2.0, scl_inter=-1.0), NAME, "adc")
    np.testing.assert_array_equal(scaled.array_XYZ, array * 2.0 - 1.0)


@pytest.mark.usefixtures("inflater")
def test_decodes_gzip_of_several_members_and_zero_padding(nifti):
    plain = nifti(gz=False)
    packed = gzip.compress(plain[:500]) + gzip.compress(plain[500:]) + bytes(512)
    np.testing.assert_array_equal(decode(packed, NAME, "t2w").array_XYZ, decode(plain, NAME, "t2w").array_XYZ)


@pytest.fixture(params=["isal", "zlib"])
def inflater(request, monkeypatch):
    """Both libraries that inflate; isal is the faster one, and absent where it has no wheel."""
    if request.param == "isal":
        monkeypatch.setattr(decompression, "_inflater", pytest.importorskip("isal.isal_zlib"))
    else:
        monkeypatch.setattr(decompression, "_inflater", zlib)


def test_rejects_files_that_are_not_nifti(nifti):
    assert "not a NIfTI file" in refusal(b"")
    assert "not a NIfTI file" in refusal(b"\x89PNG not a volume" * 100)
    assert "not a NIfTI file" in refusal(gzip.compress(b"DICM" * 200))
    assert "not a NIfTI file" in refusal(nifti(gz=False)[:300])


@pytest.mark.usefixtures("inflater")
def test_rejects_truncated_files(nifti):
    noise = np.random.default_rng(0).integers(0, 30000, (16, 16, 8)).astype(np.int16)
    packed, plain = nifti(noise), nifti(noise, gz=False)
    for cut in (40, 300, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        assert "truncated" in refusal(packed[:cut])
    for cut in (348, 352, len(plain) - 1):
        assert "truncated" in refusal(plain[:cut])
    damaged = bytearray(packed)
    damaged[len(damaged) // 2] ^= 0xFF
    assert "damaged gzip data" in refusal(bytes(damaged))


def test_rejects_invalid_shapes(nifti):
    assert "expected 3 axes, got 4; split the series first" in refusal(nifti(np.zeros((4, 4, 4, 3), np.int16)))
    assert "expected 3 axes, got 2" in refusal(nifti(np.zeros((4, 4), np.int16)))
    assert "empty volume" in refusal(nifti(dim=[3, 4, 0, 6, 1, 1, 1, 1]))
    assert "empty volume" in refusal(nifti(dim=[3, 4, -5, 6, 1, 1, 1, 1]))
    assert "number of axes" in refusal(nifti(dim=[9, 4, 5, 6, 1, 1, 1, 1]))


def test_rejects_invalid_values(nifti):
    array = np.ones((4, 4, 4), np.float32)
    array[0] = 2
    for bad in (np.nan, np.inf, -np.inf):
        array[1, 2, 3] = bad
        assert "NaN, infinity" in refusal(nifti(array))
    assert "NaN, infinity" in refusal(nifti(np.full((4, 4, 4), 1e300)))
    assert "same value everywhere" in refusal(nifti(np.zeros((4, 4, 4), np.int16)))
    assert "not a real number" in refusal(nifti(np.ones((4, 4, 4), np.complex64)))
    assert "damaged NIfTI header (type, scale or offset)" in refusal(nifti(datatype=1234))
    assert "damaged NIfTI header (type, scale or offset)" in refusal(nifti(scl_slope=1.0, scl_inter=np.inf))


@pytest.mark.parametrize("kind", ["gland", "hippocampus"])
def test_label_maps_hold_small_whole_numbers(nifti, kind):
    empty = decode(nifti(np.zeros((4, 4, 4), np.uint8)), NAME, kind, is_label=True)
    assert not empty.array_XYZ.any()
    for value in (0.5, -1.0, 256.0):
        array = np.zeros((4, 4, 4), np.float32)
        array[0, 0, 0] = value
        assert f"{kind} labels are not whole numbers from 0 to 255" in refusal(nifti(array), kind, is_label=True)
        # A stored volume was checked by the import, which knows what the dataset declares.
        assert decode(nifti(array), NAME, kind, is_label=None).array_XYZ[0, 0, 0] == value


def test_rejects_invalid_affines(nifti):
    singular = np.diag([0.5, 0.5, 3.0, 1.0])
    singular[:3, 1] = singular[:3, 0]
    assert "singular" in refusal(nifti(affine=singular))
    assert "voxel spacing" in refusal(nifti(srow_z=[0, 0, 0, 0]))
    assert "voxel spacing" in refusal(nifti(affine=np.diag([500.0, 500.0, 3000.0, 1.0])))
    assert "voxel spacing" in refusal(nifti(affine=np.diag([0.0005, 0.0005, 0.003, 1.0])))
    far = np.diag([0.5, 0.5, 3.0, 1.0])
    far[0, 3] = 1e6
    assert "the position is over" in refusal(nifti(affine=far))
    assert "NaN or infinity" in refusal(nifti(srow_x=[np.nan, 0, 0, 0]))
    assert "no orientation" in refusal(nifti(sform_code=0, qform_code=0))
    assert "cannot be read" in refusal(nifti(sform_code=0, qform_code=1, quatern_b=3.0))


@pytest.mark.usefixtures("inflater")
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(nifti, monkeypatch):
    monkeypatch.setattr(volumes, "MAX_TRAILING_BYTES", 1000)
    bomb = gzip.compress(nifti(gz=False) + bytes(50_000_000))
    assert len(bomb) < 100_000
    assert "more data than its header declares" in refusal(bomb)
    assert "declares 2097152000 voxels" in refusal(nifti(dim=[3, 2048, 2000, 512, 1, 1, 1, 1]))
    monkeypatch.setattr(volumes, "MAX_ENCODED_BYTES", 100)
    assert "larger than" in refusal(nifti())


def count_inflated(monkeypatch):
    """Bytes that are passed to the decompressors, one entry per call."""
    passed = []

    class Decompressor:
        def __init__(self, **options):
            self._inner = zlib.decompressobj(**options)

        def decompress(self, data, max_length):
            passed.append(len(data))
            return self._inner.decompress(data, max_length)

        def __getattr__(self, name):
            return getattr(self._inner, name)

    monkeypatch.setattr(decompression, "_inflater", types.SimpleNamespace(decompressobj=Decompressor, error=zlib.error))
    return passed


def test_decompression_is_linear_in_the_members_and_refuses_too_many(nifti, monkeypatch):
    """Each of 100,000 empty members passed the whole rest of the file on, which took 30 s for 2.7 MB."""
    plain = nifti(np.random.default_rng(0).integers(0, 30000, (64, 64, 64)).astype(np.int16), gz=False)
    empty, body = gzip.compress(b""), gzip.compress(plain, 1)
    passed = count_inflated(monkeypatch)
    packed = empty * (decompression.MAX_GZIP_MEMBERS - 1) + body + bytes(3 * decompression.CHUNK_BYTES)
    np.testing.assert_array_equal(decode(packed, NAME, "t2w").array_XYZ, decode(plain, NAME, "t2w").array_XYZ)
    # Once for the header and once for the voxels.
    members = 2 * decompression.MAX_GZIP_MEMBERS
    assert sum(passed) <= members * decompression.CHUNK_BYTES + 2 * len(packed)
    passed.clear()
    assert "more than 1024 gzip members; decompress the file and compress it again" in refusal(empty * 100_000)
    assert len(passed) == decompression.MAX_GZIP_MEMBERS


def test_decompression_ends_at_the_next_chunk_once_nobody_waits_for_it(nifti, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 30000, (64, 64, 64)).astype(np.int16)
    data = nifti(noise)
    assert len(data) > 6 * decompression.CHUNK_BYTES
    passed = count_inflated(monkeypatch)
    with pytest.raises(Cancelled):
        decode(data, NAME, "t2w", context=WorkContext(is_cancelled=lambda: len(passed) >= 3))
    assert len(passed) == 3


def test_analyze_files_and_headers_of_pairs_are_refused(nifti):
    image = nib.Spm99AnalyzeImage(np.ones((4, 4, 4), np.int16), np.eye(4))
    files = image.make_file_map({"header": io.BytesIO(), "image": io.BytesIO(), "mat": io.BytesIO()})
    image.to_file_map(files)
    analyze = files["header"].fileobj.getvalue() + bytes(4) + files["image"].fileobj.getvalue()
    for data in (analyze, gzip.compress(analyze), nifti(magic=b""), nifti(image_class=nib.Nifti2Image, magic=b"")):
        assert "an Analyze 7.5 header, not NIfTI; convert the series to one .nii or .nii.gz file" in refusal(data)
    assert "the header of a .hdr/.img pair" in refusal(nifti(magic=b"ni1"))


def test_thin_slices_and_long_fields_of_view_are_refused_with_the_limit(nifti):
    """8 x 8 x 6000 voxels are 58 kB as a file and took 44 s to resample."""
    slices = nifti(np.zeros((8, 8, 6000), np.uint8), np.diag([1.0, 1.0, 0.05, 1.0]))
    assert f"{NAME}: declares 6000 slices or voxels along an axis, more than 4096" in refusal(slices)
    long = nifti(np.zeros((8, 8, 201), np.uint8), np.diag([1.0, 1.0, 20.0, 1.0]))
    assert "the field of view spans 4020 mm, more than 4000 mm" in refusal(long)


def test_an_impossible_data_offset_is_refused(nifti):
    assert "data offset" in refusal(nifti(vox_offset=1e9))
    assert "data offset" in refusal(nifti(vox_offset=8.0))
    # An extension that says it ends after the file's end.
    assert "truncated" in refusal(nifti(vox_offset=100_000.0, gz=False))


def test_a_file_of_channels_is_decoded_by_channel_and_no_other_number_is_accepted(nifti):
    array = np.random.default_rng(0).integers(0, 900, (4, 5, 6, 2), dtype=np.int16)
    volumes = decode_channels(nifti(array), NAME, ("t1w", "flair"))
    for channel, kind in enumerate(("t1w", "flair")):
        assert encode(volumes[kind]) == encode(decode(nifti(array[..., channel]), NAME, kind))
    vectors = decode_channels(nifti(array[:, :, :, None]), NAME, ("t1w", "flair"))
    np.testing.assert_array_equal(vectors["flair"].array_XYZ, array[..., 1])
    for kinds, shape in ((("a", "b", "c"), "4 axes with 2"), (("a",), "")):
        with pytest.raises(BadVolume, match=shape or "expected 3 axes, got 4"):
            decode_channels(nifti(array), NAME, kinds)
    with pytest.raises(BadVolume, match="expected 4 axes with 2 channels, got 3 axes with 1"):
        decode_channels(nifti(array[..., 0]), NAME, ("a", "b"))
    blank = array * np.array([1, 0], np.int16)
    with pytest.raises(BadVolume, match="flair has the same value everywhere"):
        decode_channels(nifti(blank), NAME, ("t1w", "flair"))


def test_encode_round_trips_exactly_and_is_deterministic(phantom):
    for kind, volume in phantom.volumes.items():
        data = encode(volume)
        assert data == encode(Volume(volume.array_XYZ.copy(), volume.affine.copy()))
        again = decode(data, NAME, kind, is_label=kind in {"gland", "lesions"})
        np.testing.assert_array_equal(again.array_XYZ, volume.array_XYZ)
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
        assert encode(again) == data


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 255), np.uint8),
        ((-5, 3000), np.int16),
        ((0, 60000), np.uint16),
        ((0, 70000), np.float32),
        ((0.5, 1), np.float32),
    ],
)
def test_encode_stores_the_smallest_type_that_holds_the_values(values, dtype):
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, 0], array[1, 1, 1] = values
    data = encode(Volume(array, np.diag([1.0, 1.0, 3.0, 1.0])))
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    assert image.get_data_dtype() == dtype
    assert image.header["qform_code"] == image.header["sform_code"] == 1
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)


def test_no_header_text_survives_encoding(nifti):
    named = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    for name in ("descrip", "intent_name", "aux_file", "db_name"):
        size = named.header[name].dtype.itemsize
        named.header[name] = PATIENT[:size].encode()
    named.header.extensions.append(nib.nifti1.Nifti1Extension(6, PATIENT.encode()))
    data = named.to_bytes()
    assert data.count(b"SURNAME") == 5
    volume = decode(data, NAME, "t2w")
    plain = gzip.decompress(encode(volume))
    assert b"SURNAME" not in plain
    assert plain[348:352] == b"\0\0\0\0"


def test_no_header_text_in_errors_or_logs(nifti, caplog):
    caplog.set_level(logging.DEBUG)
    text = {"descrip": PATIENT.encode(), "aux_file": PATIENT.encode(), "intent_name": b"SURNAME^GIVEN"}
    for broken in (
        {},
        {"magic": b"SUR"},
        {"dim": [4, 4, 5, 6, 2, 1, 1, 1]},
        {"datatype": 1234},
        {"scl_slope": 1.0, "scl_inter": np.inf},
        {"sform_code": 0, "qform_code": 1, "quatern_b": 3.0},
        {"vox_offset": 1e9},
        {"sform_code": 0},
    ):
        data = nifti(gz=False, **text, **broken)
        try:
            decode(data, NAME, "t2w")
        except BadVolume as error:
            seen = error
            while seen is not None:
                assert "SUR" not in str(seen)
                seen = None if seen.__suppress_context__ else seen.__context__
    assert "SUR" not in caplog.text


@pytest.mark.usefixtures("inflater")
def test_a_wrong_checksum_is_reported_as_damage(nifti):
    packed = bytearray(nifti(np.arange(4000, dtype=np.int16).reshape(10, 20, 20)))
    packed[-6] ^= 0xFF  # of the CRC-32 before the length
    assert "damaged gzip data" in refusal(bytes(packed))


def test_zlib_inflates_where_isal_is_missing():
    code = """if True:
        import sys
        sys.modules["isal"] = None
        from vfmalign.imaging import decompression
        print(decompression._inflater.__name__)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("zlib\n", "")


def test_an_encoded_volume_passes_and_any_other_file_of_it_does_not(nifti):
    volume = decode(nifti(np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)), "a", "t2w")
    data = encode(volume)
    check_encoding(data, volume, "a")
    check_encoding(recompress(data), volume, "a")  # as another build of zlib writes it
    content = gzip.decompress(data)
    named = content[:148] + b"SURNAME" + content[155:]
    for other in (
        recompress(named),
        data + data,
        data + b"SURNAME",
        recompress(content + b"SURNAME"),
        recompress(content[:-1]),
        data[:3] + b"\x08" + data[4:10] + b"SURNAME\0" + data[10:],
        data[:4] + b"\x01" + data[5:],
        content,
        b"",
    ):
        with pytest.raises(BadVolume, match="may hold text that names a patient"):
            check_encoding(other, volume, "a")


def recompress(data: bytes) -> bytes:
    content = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return gzip.compress(content, compresslevel=9, mtime=0)
