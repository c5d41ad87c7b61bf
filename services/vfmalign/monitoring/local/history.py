"""Evidence over time. If the history has too many points, every second point is removed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential import SEQUENTIAL, Component, Observation
from vfmalign.monitoring.sequential.thresholds import find_strongest
from vfmalign.reports.drift.document import MAX_POINTS, EvidencePoint

Point = tuple[int, tuple[float, ...]]
_MOMENTS = ("alarm", "peak", "last")


class History:
    """Evidence of a monitor after the rows 1, 1 + s, 1 + 2·s, …, and at special moments.

    The stride s is a power of two.

    Attributes:
        points: points of the history. Each point contains a row number and the evidence of each sequential component.
        alarm: moment of the alarm; None if no alarm was raised.
        peak: moment at which the evidence was highest relative to its threshold.
        last: the last moment.
        stride: number of rows between two points.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.alarm: Point | None = None
        self.peak: Point | None = None
        self.last: Point | None = None
        self.stride = 1

    def add(self, observation: Observation, log_threshold: Mapping[Component, float]) -> None:
        """Adds an observation to the history if the evidence includes that observation."""
        if observation.p_value is None:
            return
        self.last = (observation.row, tuple(observation.log_evidence[component] for component in SEQUENTIAL))
        if observation.raised_alarm:
            self.alarm = self.last
        if self.peak is None or _get_excess(self.last, log_threshold) > _get_excess(self.peak, log_threshold):
            self.peak = self.last
        if (observation.row - 1) % self.stride == 0:
            self.points.append(self.last)
        if len(self.points) > MAX_POINTS:
            self.stride *= 2
            self.points = [point for point in self.points if (point[0] - 1) % self.stride == 0]

    def list_points(self) -> tuple[EvidencePoint, ...]:
        """Returns all moments, in ascending order of rows."""
        kept = (*self.points, self.alarm, self.peak, self.last)
        return tuple(to_evidence_point(point) for point in sorted({point for point in kept if point is not None}))

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Returns the history as arrays.

        Each row of an array contains the number of an observed row and the evidence at that row.
        """
        named = {"points": self.points} | {name: _list(getattr(self, name)) for name in _MOMENTS}
        width = 1 + len(SEQUENTIAL)
        return {
            f"history.{name}": np.array([[row, *values] for row, values in points], np.float64).reshape(-1, width)
            for name, points in named.items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64]], stride: int) -> History:
        """Builds a history from stored arrays."""
        history = cls()
        history.stride = stride
        named = {
            name: [(int(row[0]), tuple(map(float, row[1:]))) for row in arrays[f"history.{name}"]]
            for name in ("points", *_MOMENTS)
        }
        history.points = named["points"]
        history.alarm, history.peak, history.last = (next(iter(named[name]), None) for name in _MOMENTS)
        return history


def to_evidence_point(point: Point) -> EvidencePoint:
    """Converts a moment to the format of the document."""
    row, values = point
    return EvidencePoint(row=row, log_evidence=tuple(map(finite_or_none, values)))


def finite_or_none(value: float) -> float | None:
    """Returns the value if it is finite. Otherwise returns None, because JSON has no infinity or NaN."""
    return value if math.isfinite(value) else None


def _get_excess(point: Point, log_threshold: Mapping[Component, float]) -> float:
    return find_strongest(dict(zip(SEQUENTIAL, point[1], strict=True)), log_threshold)[1]


def _list(point: Point | None) -> list[Point]:
    return [] if point is None else [point]
