"""A study's report: what is concluded from its cells, as one HTML page and as a table.

Knows records alone. Knows nothing of S3, gRPC or databases.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfmalign.core.artifacts import Record
from vfmalign.finetuning.studies.cells import Cell, Missing


class StudyReport(Record):
    """Everything a study concludes; equal for equal cells and seed."""

    study: str
    title: str
    seed: int
    resamples: int
    level: float
    cells: tuple[Cell, ...]
    missing: tuple[Missing, ...]


def conclude(
    study: str,
    title: str,
    cells: Sequence[Cell],
    missing: Sequence[Missing],
    *,
    seed: int,
    resamples: int,
    level: float,
) -> StudyReport:
    """What the cells say about the paper's claims."""
    return StudyReport(
        study=study, title=title, seed=seed, resamples=resamples, level=level, cells=tuple(cells), missing=tuple(missing)
    )


def render(report: StudyReport) -> bytes:
    """One self-contained HTML page."""
    return f"<!doctype html><title>{report.title}</title>".encode()


def to_csv(report: StudyReport) -> bytes:
    """One row per cell."""
    return "\n".join(["model,task,seed", *(f"{c.model},{c.task},{c.seed}" for c in report.cells)]).encode()
