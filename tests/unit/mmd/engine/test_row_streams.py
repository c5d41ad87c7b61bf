"""Streams of rows: the same rows whatever the block size, from every kind of source, and every bad source refused."""

import hashlib

import numpy as np
import pytest
import torch

from vfmalign.core.domain.errors import BadOption, BadTensor, DataLoss
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest, read_part
from vfmalign.mmd.engine.row_streams import (
    ArrayRows,
    NpyRows,
    StoredRows,
    check_compatible,
    read_ahead,
)


def collect(stream, size):
    return np.concatenate([block.double().numpy() for block in stream.blocks(size)])


@pytest.fixture
def stored(store, rng):
    """A committed set of 23 rows in three parts, and its features."""

    def build(init_seed):
        request = FeatureRequest(
            model_id="m",
            model_sha256="a" * 64,
            init_seed=init_seed,
            dataset_id="d",
            dataset_digest="b" * 64,
            split="test",
            layers=("stages.2", "stages.3"),
            preprocessing=Preprocessing(
                modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64)
            ),
        )
        layers = {name: rng.normal(size=(23, width)).astype("f4") for name, width in (("stages.2", 3), ("stages.3", 5))}
        names = [f"case-{i}" for i in range(23)]
        writer = FeatureSetWriter(store, request, names, names)
        for start, stop in ((0, 10), (10, 20), (20, 23)):
            writer.write_part(start, {name: array[start:stop] for name, array in layers.items()})
        return writer.commit({"torch": "2.13"}).manifest, layers

    return build


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_arrays_and_files_give_their_rows_in_blocks_of_any_size(tmp_path, rng, dtype, size):
    array = rng.normal(size=(11, 3)).astype(dtype)
    np.save(tmp_path / "rows.npy", array)
    np.save(tmp_path / "columns.npy", np.asfortranarray(array))
    array.flags.writeable = False
    streams = [ArrayRows(array), NpyRows(tmp_path / "rows.npy"), NpyRows(tmp_path / "columns.npy")]
    for stream in [*streams, ArrayRows(torch.from_numpy(array.astype(dtype.strip(">"))))]:
        assert (stream.rows, stream.channels) == (11, 3)
        for _ in range(2):  # a stream starts anew
            blocks = list(stream.blocks(size))
            assert [len(block) for block in blocks] == [min(size, 11 - start) for start in range(0, 11, size)]
            np.testing.assert_array_equal(np.concatenate([block.numpy() for block in blocks]), array)
        np.testing.assert_array_equal(stream.read(3, 7).numpy(), array[3:7])


def test_a_stored_layer_is_read_part_by_part(store, stored):
    manifest, layers = stored(1)
    for layer, features in layers.items():
        stream = StoredRows(store, manifest, layer)
        assert (stream.rows, stream.channels) == features.shape
        for size in (1, 7, 23, 100):
            np.testing.assert_array_equal(collect(stream, size), features)
        np.testing.assert_array_equal(stream.read(9, 21).numpy(), features[9:21])
    part = read_part(store, manifest, 2)
    assert set(part) == set(layers)
    np.testing.assert_array_equal(part["stages.2"], layers["stages.2"][20:])


def test_a_part_that_was_changed_is_refused_when_it_is_reached(store, stored):
    manifest, layers = stored(2)
    reference = manifest.parts[1]
    data = bytearray(store.get(reference.key))
    data[-1] ^= 1
    assert hashlib.sha256(data).hexdigest() != reference.sha256
    store.put(reference.key, bytes(data))
    stream = StoredRows(store, manifest, "stages.3")
    blocks = stream.blocks(10)
    np.testing.assert_array_equal(next(blocks).numpy(), layers["stages.3"][:10])
    with pytest.raises(DataLoss, match="its SHA-256 is"):
        next(blocks)


def test_a_layer_that_is_not_there_is_named(store, stored):
    manifest, _ = stored(3)
    with pytest.raises(BadOption, match=r"no layer `stages.9`.*stages.2"):
        StoredRows(store, manifest, "stages.9")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path, rng, bad):
    array = rng.normal(size=(20, 4))
    array[13, 2] = bad
    np.save(tmp_path / "a.npy", array)
    for stream in (ArrayRows(array, "y"), NpyRows(tmp_path / "a.npy", "y")):
        with pytest.raises(BadTensor, match=r"^y: row 13 .*NaN or infinity"):
            list(stream.blocks(6))


def test_large_finite_rows_are_no_error():
    array = np.full((4, 3), 3e38, "f4")
    np.testing.assert_array_equal(collect(ArrayRows(array), 4), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"expected shape \[rows, channels\], got \[3\]"),
        (np.zeros((0, 3)), "expected shape"),
        (np.zeros((3, 2), int), "expected floating-point numbers"),
        (np.zeros((3, 2), complex), "expected floating-point numbers"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    for build in (lambda: ArrayRows(array), lambda: NpyRows(tmp_path / "a.npy")):
        with pytest.raises(BadTensor, match=message):
            build()


def test_files_that_are_no_arrays_are_refused_without_naming_their_path(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([[{}, 1]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", a=np.zeros((2, 2)))
    whole = np.zeros((50, 4))
    np.save(tmp_path / "cut.npy", whole)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:400])
    for name in ("text.npy", "empty.npy", "objects.npy", "archive.npz", "cut.npy", "absent.npy"):
        with pytest.raises(BadTensor, match=r"cannot be read as a \.npy file") as caught:
            NpyRows(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def test_ranges_and_sizes_out_of_range_are_refused():
    stream = ArrayRows(np.zeros((5, 2)))
    for start, stop in ((-1, 3), (3, 3), (4, 2), (0, 6)):
        with pytest.raises(BadOption, match="the stream has 5 rows"):
            stream.read(start, stop)
    with pytest.raises(BadOption, match="at least one row"):
        stream.blocks(0)


def test_reading_ahead_keeps_order_raises_and_may_be_left_early(rng):
    array = rng.normal(size=(20, 4))
    assert np.array_equal(np.concatenate([b.numpy() for b in read_ahead(ArrayRows(array).blocks(3))]), array)
    early = read_ahead(ArrayRows(array).blocks(3))
    next(early)
    early.close()
    array[7, 0] = np.nan
    with pytest.raises(BadTensor, match="row 7"):
        list(read_ahead(ArrayRows(array).blocks(3)))


def test_streams_that_cannot_be_compared_are_refused():
    x = ArrayRows(np.zeros((5, 2)))
    with pytest.raises(BadTensor, match="has 3 channels"):
        check_compatible(x, ArrayRows(np.zeros((5, 3))), paired=False)
    with pytest.raises(BadTensor, match="equal row counts, got 5 and 6"):
        check_compatible(x, ArrayRows(np.zeros((6, 2))), paired=True)
    check_compatible(x, ArrayRows(np.zeros((6, 2))), paired=False)
