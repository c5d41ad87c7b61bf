"""Matrices of features: files that are read and files that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.storage.arrays import read_npy


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("<f2", "=f2"), ("<f4", "=f4"), (">f4", "=f4"), ("<f8", "=f8"), ("<i4", "=f8"), ("|u1", "=f8")],
)
def test_matrices_of_numbers_are_read(tmp_path: Path, dtype: str, expected: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    read = read_npy(tmp_path / "a.npy", "X")
    assert read.dtype == np.dtype(expected)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=complex)])
def test_other_arrays_are_no_matrix_of_features(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadTensor, match="expected numbers with 2 axes, got ") as caught:
        read_npy(tmp_path / "a.npy", "X")
    assert caught.value.field == "X"


def test_files_that_cannot_be_read_are_refused_without_their_path(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.zeros((2, 2)))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    (tmp_path / "text.npy").write_text("1 2 3")
    np.save(tmp_path / "whole.npy", np.zeros((9, 9)))
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-8])
    (tmp_path / "folder.npy").mkdir()
    for name in ("objects", "several", "text", "short", "folder"):
        with pytest.raises(BadTensor, match="read without unpickling") as caught:
            read_npy(tmp_path / f"{name}.npy", "X")
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(BadOption, match="no such file"):
        read_npy(tmp_path / "gone.npy", "X")
