"""Rows of features that are read a block at a time: arrays, `.npy` files, stored feature sets and seeded noise.

Knows where rows come from and that they are finite; nothing of what is computed from them. Every stream starts anew
each time it is read, gives the same rows each time, and holds no more than the blocks at work.

Legend: N rows of a stream, R rows of a block, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.storage.feature_sets import Features, Manifest, read_part
from vfmalign.core.storage.object_store import ObjectStore

# Noise is drawn in blocks of this many rows, whatever size is asked for, so that a row's value depends on neither.
NOISE_ROWS = 4096

Block = TypeVar("Block")
FeatureArray = NDArray[np.floating[Any]]


class RowStream(Protocol):
    """N rows of C channels, readable again and again. Blocks are the stream's own: nobody writes into them."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def channels(self) -> int:
        """C."""

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All rows once from the first on, `size` at a time (the last block may be shorter): block_RC, floating."""

    def read(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop − 1`: block_RC, floating."""


class ArrayRows:
    """An array or tensor at hand; blocks are views of it where that is possible."""

    def __init__(self, features_NC: Tensor | NDArray[Any], name: str = "x") -> None:
        """Wraps the rows.

        Args:
            features_NC: floating numbers, [rows, channels], on any device.
            name: how errors name it.

        Raises:
            BadTensor: no two axes, an empty one, or no floating numbers.
        """
        floating = (
            features_NC.is_floating_point()
            if isinstance(features_NC, Tensor)
            else np.issubdtype(features_NC.dtype, np.floating)
        )
        _check_shape(tuple(features_NC.shape), floating, name)
        self._features_NC, self._name = features_NC, name
        self.rows, self.channels = int(features_NC.shape[0]), int(features_NC.shape[1])

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`."""
        _check_range(self, start, stop)
        block_RC = self._features_NC[start:stop]
        return _finite(block_RC if isinstance(block_RC, Tensor) else to_tensor(block_RC), start, self._name)


class NpyRows:
    """A `.npy` file; it is mapped anew for every block, so that what was read does not stay in memory."""

    def __init__(self, path: Path, name: str = "x") -> None:
        """Reads the header.

        Args:
            path: the file; nothing in it is ever unpickled.
            name: how errors name it (a path may be a patient's).

        Raises:
            BadTensor: no `.npy` file of numbers, no two axes, an empty one, or no floating numbers.
        """
        self._path, self._name = path, name
        array_NC = self._map()
        _check_shape(array_NC.shape, np.issubdtype(array_NC.dtype, np.floating), name)
        self.rows, self.channels = int(array_NC.shape[0]), int(array_NC.shape[1])

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`."""
        _check_range(self, start, stop)
        return _finite(to_tensor(np.array(self._map()[start:stop], order="C")), start, self._name)

    def _map(self) -> NDArray[Any]:
        try:
            mapped: NDArray[Any] = np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            mapped = np.empty(0)
        if not isinstance(mapped, np.memmap):
            raise BadTensor(
                "cannot be read as a .npy file of numbers", field=self._name, remedy="save it with numpy.save"
            )
        return mapped


class StoredRows:
    """One layer of a stored feature set, part by part, each verified by its digest; one part is kept at a time.

    A part is one object that holds all layers of its rows: reading one layer reads the others' bytes too.
    """

    def __init__(self, store: ObjectStore, manifest: Manifest, layer: str) -> None:
        """Takes the sizes from the manifest; reads no features yet.

        Raises:
            BadOption: the set has no such layer.
        """
        channels = {spec.name: spec.channels for spec in manifest.layers}
        self._name = f"feature set {manifest.request.feature_set_id()}"
        if layer not in channels:
            raise BadOption(f"`{self._name}` has no layer `{layer}`", field="layers", remedy=f"it has {list(channels)}")
        self._store, self._manifest, self._layer = store, manifest, layer
        self.rows, self.channels = manifest.rows, channels[layer]
        self._held: tuple[int, Features] | None = None

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`.

        Raises:
            NotFound, DigestMismatch, PreconditionFailed: a part is missing, was changed, or is not what it should be.
        """
        _check_range(self, start, stop)
        pieces = []
        for index, part in enumerate(self._manifest.parts):
            first, last = max(start, part.start_row), min(stop, part.start_row + part.rows)
            if first < last:
                pieces.append(self._part(index)[first - part.start_row : last - part.start_row])
        return _finite(to_tensor(np.concatenate(pieces)), start, self._name)

    def _part(self, index: int) -> Features:
        held = self._held  # two readers in two threads may share a stream
        if held is None or held[0] != index:
            held = self._held = None
            held = self._held = (index, read_part(self._store, self._manifest, index)[self._layer])
        return held[1]


class GaussianRows:
    """Seeded rows of N(mean, sd²) noise, drawn when they are read and never stored.

    Block i of `NOISE_ROWS` rows depends on the seed and i alone (on torch's generator of that device besides), so that
    two streams of one seed and different means are shifted copies of each other.
    """

    def __init__(
        self, rows: int, channels: int, *, seed: int, mean: float = 0.0, sd: float = 1.0, device: str = "cpu"
    ) -> None:
        """Draws nothing yet.

        Args:
            rows: N.
            channels: C.
            seed: from 0 to 2⁶⁴ − 1.
            mean: of every channel.
            sd: of every channel.
            device: where the rows are drawn and stay.

        Raises:
            BadOption: a size under 1, or a seed out of range.
        """
        if rows < 1 or channels < 1:
            raise BadOption(f"expected at least one row and channel, got {rows} × {channels}", field="rows")
        if not 0 <= seed < 2**64:
            raise BadOption(f"expected a seed from 0 to 2⁶⁴ − 1, got {seed}", field="seed")
        self.rows, self.channels = rows, channels
        self._seed, self._mean, self._sd = seed, mean, sd
        self._device = torch.device(device)
        self._held: tuple[int, Tensor] | None = None

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`."""
        _check_range(self, start, stop)
        pieces = []
        for block in range(start // NOISE_ROWS, -(-stop // NOISE_ROWS)):
            offset = block * NOISE_ROWS
            pieces.append(self._noise(block)[max(0, start - offset) : stop - offset])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _noise(self, block: int) -> Tensor:
        """Block i as a whole, so that its rows do not depend on which of them are read; the last one drawn is kept."""
        held = self._held  # two readers in two threads may share a stream
        if held is None or held[0] != block:
            state = int(np.random.SeedSequence((self._seed, block)).generate_state(1, np.uint64)[0])
            generator = torch.Generator(self._device).manual_seed(state % 2**63)
            noise_RC = torch.empty(NOISE_ROWS, self.channels, device=self._device)
            held = self._held = (block, noise_RC.normal_(self._mean, self._sd, generator=generator))
        return held[1]


def read_ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same blocks, the next one being read in a thread while the caller works on the last."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def read_rows(stream: RowStream, rows: Sequence[int]) -> Tensor:
    """Single rows in the order given, [R, C]; ascending ones are read fastest."""
    return torch.cat([stream.read(0, 1)[:0], *(stream.read(row, row + 1) for row in rows)])


@dataclass(frozen=True)
class Grouping:
    """Groups of a stream's rows, which are neighbours.

    Attributes:
        rows: N.
        edges: where each group begins, and the end of the last one; None where each row is a group of its own.
    """

    rows: int
    edges: NDArray[np.int64] | None

    @classmethod
    def of(cls, groups: Sequence[str] | None, rows: int, name: str) -> Grouping:
        """Groups from the label of each row.

        Raises:
            BadTensor: not one label per row.
            BadOption: rows of one group that are not neighbours.
        """
        if not groups:
            return cls(rows, None)
        if len(groups) != rows:
            raise BadTensor(f"names {len(groups)} groups for {rows} rows", field=f"{name}.groups")
        _, group_of = np.unique(np.asarray(groups), return_inverse=True)
        starts = np.flatnonzero(np.diff(group_of, prepend=-1))
        if len(starts) != int(group_of.max()) + 1:
            raise BadOption(
                f"rows of one group of `{name}` are not neighbours, and a stream is read in its order",
                field=f"{name}.groups",
                remedy="sort the rows by group",
            )
        return cls(rows, np.append(starts, rows))

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.rows if self.edges is None else len(self.edges) - 1

    def spans(self, blocks: int) -> list[tuple[int, int]]:
        """Rows of so many blocks: as many groups in each as can be, to within one."""
        cuts = np.arange(blocks + 1) * self.count // blocks
        return list(pairwise((cuts if self.edges is None else self.edges[cuts]).tolist()))

    def within(self, start: int, stop: int) -> NDArray[np.int64]:
        """Index of each row's group among the rows from `start`, where a group begins, to `stop − 1`."""
        rows_I = np.arange(start, stop)
        group_of = rows_I if self.edges is None else np.searchsorted(self.edges, rows_I, side="right")
        return np.asarray(group_of - group_of[0])


def to_stream(features: FeatureArray | RowStream, name: str) -> RowStream:
    """Rows to be read a block at a time, whether at hand or not."""
    return ArrayRows(features, name) if isinstance(features, np.ndarray) else features


def to_numpy(block_RC: Tensor) -> NDArray[Any]:
    """A block for numpy, which knows no bfloat16."""
    return np.asarray((block_RC.float() if block_RC.dtype == torch.bfloat16 else block_RC).cpu().numpy())


def check_compatible(x: RowStream, y: RowStream, *, paired: bool) -> None:
    """Refuses two streams that cannot be compared.

    Raises:
        BadTensor: different channels, or different row counts of paired rows.
    """
    if x.channels != y.channels:
        raise BadTensor(f"has {y.channels} channels, x has {x.channels}", field="y", remedy="compare like with like")
    if paired and x.rows != y.rows:
        raise BadTensor(
            f"paired samples need equal row counts, got {x.rows} and {y.rows}",
            field="y",
            remedy="send the same cases in the same order, or say that the samples are independent",
        )


def _blocks(stream: RowStream, size: int) -> Iterator[Tensor]:
    """Blocks through `read`, one after another."""
    if size < 1:
        raise BadOption(f"expected blocks of at least one row, got {size}", field="size")
    return (stream.read(start, min(start + size, stream.rows)) for start in range(0, stream.rows, size))


def _check_range(stream: RowStream, start: int, stop: int) -> None:
    if not 0 <= start < stop <= stream.rows:
        raise BadOption(f"rows {start} to {stop} are not within the {stream.rows} there are", field="rows")


def _check_shape(shape: tuple[int, ...], floating: bool, name: str) -> None:
    if len(shape) != 2 or 0 in shape:
        raise BadTensor(
            f"expected shape [rows, channels], got {list(shape)}", field=name, remedy="pool to one row per case"
        )
    if not floating:
        raise BadTensor("expected floating numbers", field=name, remedy="convert it to float32")


def to_tensor(block_RC: NDArray[Any]) -> Tensor:
    """The block as a tensor, without a copy where numpy and torch agree on it."""
    native = block_RC.dtype.newbyteorder("=")
    usable = native if native.itemsize <= 8 else np.dtype(np.float64)
    block_RC = block_RC.astype(usable, copy=False)
    return torch.from_numpy(block_RC if block_RC.flags.writeable else block_RC.copy())


def _finite(block_RC: Tensor, start: int, name: str) -> Tensor:
    # A sum is finite unless an entry is not (or it overflows), and takes a fraction of the time of looking at each.
    if not bool(block_RC.sum().isfinite()):
        finite_R = block_RC.isfinite().all(dim=1)
        if not bool(finite_R.all()):
            row = start + int((~finite_R).nonzero()[0, 0])
            raise BadTensor(
                f"row {row} (from 0) holds NaN or infinity",
                field=name,
                remedy="leave out the rows that cannot be computed",
            )
    return block_RC
